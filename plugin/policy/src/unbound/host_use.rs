//! What the host has through a PCI function: interfaces and disks, and how much it needs them.

use std::fmt;

/// Mount points without which the host does not work.
const SYSTEM_MOUNTS: [&str; 7] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc"];
/// Names that a text lists at most.
const MAX_NAMES: usize = 4;

/// What the host has through a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Use {
    /// A network interface.
    Interface {
        /// Its name.
        name: String,
        /// Whether it is up.
        is_up: bool,
        /// Whether a default route leads through it, also through a bond, bridge or VLAN above it.
        has_default_route: bool,
        /// Whether no other physical interface is up.
        is_only_one_up: bool,
        /// The bonds, bridges and VLANs above it.
        uppers: Vec<String>,
    },
    /// A network interface that another network namespace has, so that sysfs does not show it here.
    HiddenInterface,
    /// A disk with its partitions.
    Disk {
        /// Its name.
        name: String,
        /// Where it or a partition of it is mounted.
        mounts: Vec<String>,
        /// Whether it or a partition of it is swap space.
        is_swap: bool,
        /// The devices of dm and md that it is part of.
        holders: Vec<String>,
    },
    /// A disk that may belong to one of these ZFS pools: nothing shows which disks they have.
    PerhapsInPool {
        /// The disk's name.
        disk: String,
        /// The imported pools.
        pools: Vec<String>,
    },
    /// The function is part of the host's chipset: a host bridge, or an ISA or LPC bridge.
    Chipset,
    /// Its enabled virtual functions, by number: they disappear when the driver of the physical function is unbound.
    VirtualFunctions(u32),
    /// The display on which the firmware booted, so the host's console.
    Console,
    /// The function has more below it than could be searched.
    Unsearched,
}

/// How much the host needs what it has through a function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// Nothing is in use.
    None,
    /// Something is in use, and the host works without it.
    InUse,
    /// The host, or the way to it, would be lost.
    Vital,
}

impl Use {
    /// Returns how much the host needs it. For a disk, as far as the mounts are known.
    pub fn need(&self) -> Need {
        match self {
            Self::Interface { has_default_route: true, .. }
            | Self::Interface { is_up: true, is_only_one_up: true, .. } => Need::Vital,
            Self::Interface { is_up, uppers, .. } if *is_up || !uppers.is_empty() => Need::InUse,
            Self::Chipset => Need::Vital,
            Self::HiddenInterface
            | Self::PerhapsInPool { .. }
            | Self::VirtualFunctions(_)
            | Self::Unsearched => Need::InUse,
            Self::Disk { mounts, .. } if mounts.iter().any(|mount| is_system_mount(mount)) => Need::Vital,
            Self::Disk { mounts, is_swap, holders, .. }
                if !mounts.is_empty() || *is_swap || !holders.is_empty() =>
            {
                Need::InUse
            }
            Self::Interface { .. } | Self::Disk { .. } | Self::Console => Need::None,
        }
    }
}

fn is_system_mount(mount: &str) -> bool {
    SYSTEM_MOUNTS.contains(&mount)
}

/// Writes the use for people: `interface eth0 (up, default route)`, `disk sda (mounted at /, /boot)`.
impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes: Vec<String> = Vec::new();
        match self {
            Self::Interface { name, is_up, has_default_route, is_only_one_up, uppers } => {
                notes.push(if *is_up { "up" } else { "down" }.to_owned());
                if *has_default_route {
                    notes.push("default route".to_owned());
                }
                if *is_up && *is_only_one_up {
                    notes.push("the only one that is up".to_owned());
                }
                if !uppers.is_empty() {
                    notes.push(format!("part of {}", shortened(uppers, ", ")));
                }
                write!(f, "interface {name}")?;
            }
            Self::HiddenInterface => return f.write_str("an interface in another network namespace"),
            Self::Disk { name, mounts, is_swap, holders } => {
                if !mounts.is_empty() {
                    let mut mounts = mounts.clone();
                    mounts.sort_by_key(|mount| (!is_system_mount(mount), mount.len()));
                    notes.push(format!("mounted at {}", shortened(&mounts, ", ")));
                }
                if *is_swap {
                    notes.push("swap".to_owned());
                }
                if !holders.is_empty() {
                    notes.push(format!("part of {}", shortened(holders, ", ")));
                }
                write!(f, "disk {name}")?;
            }
            Self::PerhapsInPool { disk, pools } => {
                let pools = shortened(pools, " or ");
                return write!(
                    f,
                    "disk {disk} may be part of the ZFS pool {pools} (udev's record cannot be read)"
                );
            }
            Self::Chipset => return f.write_str("part of the chipset"),
            Self::VirtualFunctions(count) => return write!(f, "{count} enabled virtual functions"),
            Self::Console => return f.write_str("the console"),
            Self::Unsearched => return f.write_str("more than could be searched"),
        }
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join(", ")) }
    }
}

/// Joins the first names, and says how many more there are.
pub(super) fn shortened(names: &[String], separator: &str) -> String {
    let (shown, rest) = names.split_at(names.len().min(MAX_NAMES));
    let text = shown.join(separator);
    if rest.is_empty() { text } else { format!("{text} and {} more", rest.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unbound::FunctionFacts;
    use crate::unbound::tests::facts;

    fn interface(is_up: bool, has_default_route: bool, is_only_one_up: bool, uppers: &[&str]) -> Use {
        let uppers = uppers.iter().map(|&name| name.to_owned()).collect();
        Use::Interface { name: "eth0".to_owned(), is_up, has_default_route, is_only_one_up, uppers }
    }

    fn disk(mounts: &[&str], is_swap: bool, holders: &[&str]) -> Use {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Use::Disk { name: "sda".to_owned(), mounts: owned(mounts), is_swap, holders: owned(holders) }
    }

    #[test]
    fn need_and_words_follow_from_the_uses() {
        for (used, need, words) in [
            (interface(false, false, false, &[]), Need::None, "interface eth0 (down)"),
            (interface(true, false, false, &[]), Need::InUse, "interface eth0 (up)"),
            (interface(false, false, false, &["bond0"]), Need::InUse, "interface eth0 (down, part of bond0)"),
            (interface(true, true, false, &[]), Need::Vital, "interface eth0 (up, default route)"),
            (interface(true, false, true, &[]), Need::Vital, "interface eth0 (up, the only one that is up)"),
            (Use::HiddenInterface, Need::InUse, "an interface in another network namespace"),
            (disk(&[], false, &[]), Need::None, "disk sda"),
            (disk(&["/data"], false, &[]), Need::InUse, "disk sda (mounted at /data)"),
            (disk(&["/boot/efi", "/"], true, &[]), Need::Vital, "disk sda (mounted at /, /boot/efi, swap)"),
            (disk(&[], true, &[]), Need::InUse, "disk sda (swap)"),
            (disk(&[], false, &["dm-0"]), Need::InUse, "disk sda (part of dm-0)"),
            (
                disk(&["/a", "/b", "/c", "/d", "/e", "/"], false, &[]),
                Need::Vital,
                "disk sda (mounted at /, /a, /b, /c and 2 more)",
            ),
            (
                Use::PerhapsInPool { disk: "sda".into(), pools: vec!["tank".into()] },
                Need::InUse,
                "disk sda may be part of the ZFS pool tank (udev's record cannot be read)",
            ),
            (Use::Chipset, Need::Vital, "part of the chipset"),
            (Use::VirtualFunctions(4), Need::InUse, "4 enabled virtual functions"),
            (Use::Console, Need::None, "the console"),
            (Use::Unsearched, Need::InUse, "more than could be searched"),
        ] {
            let facts = FunctionFacts { uses: vec![used], ..facts() };
            assert_eq!((facts.need(), facts.losses().as_deref()), (need, Some(words)));
        }
        assert_eq!((facts().need(), facts().losses()), (Need::None, None));
        let unknown = FunctionFacts { uses: vec![disk(&[], false, &[])], mounts_known: false, ..facts() };
        assert_eq!(unknown.need(), Need::InUse, "it may be mounted");
    }
}
