//! Which checks make a device Unhealthy beside being held.

use std::str::FromStr;

/// What makes a device Unhealthy beside being held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checks {
    /// Its device node is missing.
    pub node: bool,
    /// It has fallen off the bus.
    pub lost: bool,
    /// It had fatal PCIe errors (AER) since it was bound.
    pub aer: bool,
}

impl FromStr for Checks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut checks = Self { node: false, lost: false, aer: false };
        if text == "none" {
            return Ok(checks);
        }
        for word in text.split(',') {
            match word.trim() {
                "node" => checks.node = true,
                "lost" => checks.lost = true,
                "aer" => checks.aer = true,
                other => return Err(format!("`{other}`: expected node, lost and aer by comma, or none")),
            }
        }
        Ok(checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_named_by_comma() {
        for (text, node, lost, aer) in [
            ("none", false, false, false),
            ("node", true, false, false),
            ("lost, aer", false, true, true),
            ("aer,node,lost,aer", true, true, true),
        ] {
            assert_eq!(text.parse(), Ok(Checks { node, lost, aer }), "{text}");
        }
        for text in ["", "all", "none,lost", "lost,", "LOST"] {
            assert!(text.parse::<Checks>().unwrap_err().contains("expected node, lost and aer"), "{text}");
        }
    }
}
