//! Finds in /proc/iomem what uses the memory of PCI functions besides VFIO, such as the boot framebuffer.
//!
//! The kernel lists each BAR under the function's address (`pci_request_resource`), below the windows of the bridges above it.
//! A child of a BAR is a part that a driver has claimed: `BOOTFB` (`sysfb_create_simplefb`, `efifb_probe`), `simpledrm`, `vesafb`.
//! vfio-pci claims whole BARs as `vfio-pci` (`vfio_pci_core_setup_barmap`), which fails while another claim exists. The GPU is
//! then bound, and its VM cannot map the BAR or gets a display that the host draws on.

use std::collections::BTreeMap;
use vfio_probe::PciAddress;
use vfio_probe::device::is_vfio_driver;
use vfio_probe::text::Text;

/// Names of a function's users at most.
const MAX_USERS: usize = 8;

/// The users of the BARs of PCI functions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BarUsers(BTreeMap<PciAddress, Vec<Text<32>>>);

/// A line that can have later lines as children.
struct Parent {
    indent: usize,
    range: (u64, u64),
    /// The function in whose BAR the line lies.
    bar_of: Option<PciAddress>,
}

impl BarUsers {
    /// Parses the content of /proc/iomem. Ignores lines that the kernel would not write. Time and memory are proportional to the
    /// text.
    ///
    /// A reader without CAP_SYS_ADMIN gets 0 for all addresses (`r_show` in kernel/resource.c). The indentation shows
    /// the children of each line all the same. With addresses, a range within another one is its child also if the indentation is the same:
    /// the kernel stops indenting at a depth of five or eight (`MAX_IORES_LEVEL`).
    pub fn parse(text: &[u8]) -> Self {
        let mut users = Self::default();
        let mut parents: Vec<Parent> = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            let Some((indent, range, name)) = parse_line(line) else { continue };
            let is_child = |parent: &Parent| {
                let lies_within = parent.range.0 <= range.0 && range.1 <= parent.range.1;
                parent.indent < indent || (parent.indent == indent && lies_within && parent.range.1 > 0)
            };
            while parents.pop_if(|parent| !is_child(parent)).is_some() {}
            let bar_of = match PciAddress::parse(name) {
                // A BAR. That of a virtual function lies within one of its physical function.
                Some(address) => Some(address),
                None if name.starts_with(b"PCI Bus ") => None,
                None => parents.last().and_then(|parent| parent.bar_of),
            };
            if let Some(address) = bar_of
                && PciAddress::parse(name).is_none()
                && !is_vfio_driver(name)
            {
                users.add(address, Text::lossy(name));
            }
            parents.push(Parent { indent, range, bar_of });
        }
        users
    }

    fn add(&mut self, address: PciAddress, user: Text<32>) {
        let known = self.0.entry(address).or_default();
        if !known.contains(&user) && known.len() < MAX_USERS {
            known.push(user);
        }
    }

    /// Returns the users of a function's BARs, the outermost first. Empty if only VFIO uses them.
    pub fn of(&self, address: PciAddress) -> &[Text<32>] {
        self.0.get(&address).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Parses `  c0000000-c0ffffff : NAME`: the indentation in spaces, the range, and the name.
fn parse_line(line: &[u8]) -> Option<(usize, (u64, u64), &[u8])> {
    let rest = line.trim_ascii_start();
    let indent = line.len() - rest.len();
    let at = rest.windows(3).position(|part| part == b" : ")?;
    let (range, name) = (rest.get(..at)?, rest.get(at + 3..)?.trim_ascii());
    let (first, last) = std::str::from_utf8(range).ok()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some((indent, (hex(first)?, hex(last)?), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: &str = "\
00000000-00000fff : Reserved
000a0000-000bffff : PCI Bus 0000:00
000c0000-000dffff : PCI Bus 0000:00
  000c0000-000dffff : Video ROM
c0000000-dfffffff : PCI Bus 0000:00
  c0000000-d1ffffff : PCI Bus 0000:01
    c0000000-cfffffff : 0000:01:00.0
      c0000000-c07e8fff : BOOTFB
        c0000000-c07e8fff : simpledrm
    d0000000-d1ffffff : 0000:01:00.0
      d0000000-d1ffffff : vfio-pci
    d2000000-d2003fff : 0000:01:00.1
      d2000000-d2003fff : ICH HD audio
  d3000000-d30fffff : PCI Bus 0000:02
    d3000000-d3003fff : 0000:02:00.0
      d3000000-d3003fff : nvme
380000000000-3807ffffffff : PCI Bus 0000:3b
  380000000000-3801ffffffff : PCI Bus 0000:3c
    380000000000-380fffffffff : 10000:3c:00.0
      380000000000-380000ffffff : efifb
  380800000000-3808ffffffff : 0000:3b:00.0
    380800000000-3808000fffff : 0000:3b:00.1
      380800000000-3808000fffff : vfio-pci
    380800100000-3808001fffff : 0000:3b:00.2
      380800100000-3808001fffff : mystery
";

    fn of(users: &BarUsers, address: &str) -> Vec<String> {
        let address = PciAddress::parse(address.as_bytes()).unwrap();
        users.of(address).iter().map(ToString::to_string).collect()
    }

    fn check_host(users: &BarUsers) {
        assert_eq!(of(users, "0000:01:00.0"), ["BOOTFB", "simpledrm"]);
        assert_eq!(of(users, "0000:01:00.1"), ["ICH HD audio"]);
        assert_eq!(of(users, "0000:02:00.0"), ["nvme"]);
        assert_eq!(of(users, "10000:3c:00.0"), ["efifb"], "a prefetchable BAR above 4 GiB");
        assert_eq!(of(users, "0000:3b:00.0"), [""; 0], "the BARs of its virtual functions are no users");
        assert_eq!(of(users, "0000:3b:00.1"), [""; 0]);
        assert_eq!(of(users, "0000:3b:00.2"), ["mystery"]);
        assert_eq!(of(users, "0000:99:00.0"), [""; 0]);
    }

    #[test]
    fn children_of_bars_are_found_with_addresses_and_without() {
        check_host(&BarUsers::parse(HOST.as_bytes()));
        let zeros: String = HOST
            .lines()
            .map(|line| {
                let (range, name) = line.split_once(" : ").unwrap();
                let spaces = &range[..range.len() - range.trim_start().len()];
                format!("{spaces}00000000-00000000 : {name}\n")
            })
            .collect();
        check_host(&BarUsers::parse(zeros.as_bytes()));
    }

    #[test]
    fn known_and_unknown_framebuffers_are_users() {
        for name in ["BOOTFB", "efifb", "simpledrm", "simple-framebuffer", "vesafb", "some new driver"] {
            let text = format!("c0000000-cfffffff : 0000:01:00.0\n  c0000000-c0ffffff : {name}\n");
            assert_eq!(of(&BarUsers::parse(text.as_bytes()), "0000:01:00.0"), [name]);
        }
        for name in ["vfio-pci", "vfio_pci", "nvgrace-gpu-vfio-pci", "mlx5_vfio_pci"] {
            let text = format!("c0000000-cfffffff : 0000:01:00.0\n  c0000000-c0ffffff : {name}\n");
            assert_eq!(of(&BarUsers::parse(text.as_bytes()), "0000:01:00.0"), [""; 0]);
        }
    }

    #[test]
    fn child_at_the_deepest_indentation_is_found_by_its_range() {
        let mut text = String::new();
        for depth in 0..8 {
            text += &format!("{}c0000000-cfffffff : PCI Bus 0000:0{depth}\n", "  ".repeat(depth));
        }
        let deepest = "  ".repeat(8);
        text += &format!("{deepest}c0000000-c7ffffff : 0000:09:00.0\n{deepest}c0000000-c0ffffff : BOOTFB\n");
        text += &format!("{deepest}c8000000-c8ffffff : Reserved\n");
        assert_eq!(of(&BarUsers::parse(text.as_bytes()), "0000:09:00.0"), ["BOOTFB"]);
    }

    #[test]
    fn line_after_a_bar_is_not_its_child() {
        let text = "c0000000-cfffffff : 0000:01:00.0\nd0000000-d0ffffff : BOOTFB\n  d0000000-d0000fff : x\n";
        assert_eq!(BarUsers::parse(text.as_bytes()), BarUsers::default());
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text: Vec<u8>, depth in 0usize..40) {
            BarUsers::parse(&text);
            let line = [" ".repeat(depth).as_bytes(), b"0-f : 0000:01:00.0\n", &text].concat();
            BarUsers::parse(&line.repeat(3));
        }
    }
}
