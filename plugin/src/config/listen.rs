//! The address of `--listen`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const EXPECTED: &str =
    "expected IP:PORT, [IPv6]:PORT, or :PORT for all addresses, like 127.0.0.1:9440, [::1]:9440 or :9440";

/// Where to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ListenAddress {
    /// One address, or all of one IP version. Port 0 lets the kernel choose a port.
    One(SocketAddr),
    /// All addresses of IPv6 and IPv4, with this port.
    All(u16),
}

impl ListenAddress {
    /// Returns the addresses to try, each only if the kernel does not know the IP version of the one before. A socket for all IPv6
    /// addresses accepts IPv4 too (ipv6(7), IPV6_V6ONLY).
    pub(crate) fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::One(address) => vec![address],
            Self::All(port) => {
                let all: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
                all.map(|ip| SocketAddr::new(ip, port)).to_vec()
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::All(port) => write!(f, ":{port}"),
        }
    }
}

/// Parses an address: a port alone or after a colon means all addresses.
///
/// # Errors
/// What is wrong, and what was expected. Names of hosts are refused: which of their addresses is meant is not clear.
pub(super) fn listen(text: &str) -> Result<ListenAddress, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = port.parse().map_err(|_| format!("a port is at most 65535; {EXPECTED}"))?;
        return Ok(ListenAddress::All(port));
    }
    if let Ok(address) = text.parse() {
        return Ok(ListenAddress::One(address));
    }
    let is_address = text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    Err(match text.rsplit_once(':') {
        _ if is_address => format!("the port is missing; {EXPECTED}"),
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
            format!("an IPv6 address needs brackets; {EXPECTED}")
        }
        _ => EXPECTED.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for (text, shown) in [
            ("127.0.0.1:9440", "127.0.0.1:9440"),
            ("0.0.0.0:9440", "0.0.0.0:9440"),
            ("[::1]:9440", "[::1]:9440"),
            ("[fe80::1%2]:9440", "[fe80::1%2]:9440"),
            (":9440", ":9440"),
            ("9440", ":9440"),
            (":0", ":0"),
        ] {
            assert_eq!(listen(text).unwrap().to_string(), shown);
        }
        let all: Vec<String> =
            listen(":9440").unwrap().candidates().iter().map(ToString::to_string).collect();
        assert_eq!(all, ["[::]:9440", "0.0.0.0:9440"]);
    }

    #[test]
    fn bad_address_is_refused_with_what_was_expected() {
        for (text, wrong) in [
            ("127.0.0.1", "the port is missing"),
            ("::1", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("fe80::abcd:12345", "needs brackets"),
            (":65536", "at most 65535"),
            ("99999999999999999999", "at most 65535"),
            ("localhost:9440", "expected IP:PORT"),
            ("127.0.0.1:http", "expected IP:PORT"),
            ("256.0.0.1:9440", "expected IP:PORT"),
            ("http://127.0.0.1:9440/metrics", "expected IP:PORT"),
            (":", "expected IP:PORT"),
            ("", "expected IP:PORT"),
            ("-1", "expected IP:PORT"),
        ] {
            let error = listen(text).unwrap_err();
            assert!(error.contains(wrong) && error.contains("like 127.0.0.1:9440"), "{text}: {error}");
        }
    }
}
