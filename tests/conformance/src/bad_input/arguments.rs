//! Bad inputs that a language refuses in its own words, or cannot express.

use super::Expected::{self, Each};
use super::{BadInput, bad};

/// The number that stands for no group.
const NO_GROUP: &[u8] = b"4294967295";
const NO_ID: (&str, &str) =
    ("ParseIdError", "expected a PCI address like 0000:3b:00.0, an mdev uuid, or a group number");
const NO_SUCH_GROUP: (&str, &str) = ("Error", "group 4294967295: no such IOMMU group");
const NO_GROUP_AMONG_GROUPS: Expected = Each([
    ("result", "holders"),
    ("invalid", "groups: must not contain VFP_NO_GROUP; a device without an IOMMU has no group"),
    ("ErrInvalid", "groups: must not contain VFP_NO_GROUP; a device without an IOMMU has no group"),
    (
        "ValueError",
        "an item of groups must not be 4294967295, which stands for no group; \
         a device without an IOMMU has no group",
    ),
]);
/// Without such an input: the type of the language does not have the value.
const NONE: (&str, &str) = ("", "");

/// Returns what each language says about `VFP_NO_GROUP` as a group. To Rust it is a number like others.
const fn no_group(rust: (&'static str, &'static str)) -> Expected {
    let text = "group: must not be VFP_NO_GROUP; a device without an IOMMU has no group";
    let python =
        "group must not be 4294967295, which stands for no group; a device without an IOMMU has no group";
    Each([rust, ("invalid", text), ("ErrInvalid", text), ("ValueError", python)])
}

/// The bad inputs, in the order of the table.
pub(super) const ALL: &[BadInput] = &[
    bad(
        "a path with a NUL",
        "open_nul",
        b"",
        Each([
            ("Error", "root directory a\\u{0}b: Invalid argument"),
            NONE,
            ("ErrInvalid", "path: must not contain a NUL byte"),
            ("ValueError", "path must not contain a null character"),
        ]),
    ),
    bad(
        "an address without a function",
        "device",
        b"0000:1b:00",
        Each([
            NO_ID,
            ("invalid", "id: must be a PCI address such as 0000:3b:00.0 or an mdev UUID"),
            ("ErrInvalid", "id: must be a PCI address such as 0000:3b:00.0 or an mdev UUID"),
            ("ValueError", "id must be a PCI address such as 0000:3b:00.0 or an mdev UUID, not '0000:1b:00'"),
        ]),
    ),
    bad(
        "an empty id",
        "device",
        b"",
        Each([
            NO_ID,
            ("invalid", "id: must be a PCI address such as 0000:3b:00.0 or an mdev UUID"),
            ("ErrInvalid", "id: must be a PCI address such as 0000:3b:00.0 or an mdev UUID"),
            ("ValueError", "id must be a PCI address such as 0000:3b:00.0 or an mdev UUID, not ''"),
        ]),
    ),
    bad(
        "hardware of a mediated device",
        "hardware",
        b"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
        Each([
            NO_ID,
            ("invalid", "address: must be a PCI address such as 0000:3b:00.0"),
            ("ErrInvalid", "address: must be a PCI address such as 0000:3b:00.0"),
            (
                "ValueError",
                "device must be a PCI address such as 0000:3b:00.0, not 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            ),
        ]),
    ),
    bad("no group, as a group", "group", NO_GROUP, no_group(NO_SUCH_GROUP)),
    bad("no group, its members", "members", NO_GROUP, no_group(NO_SUCH_GROUP)),
    bad("no group, a peek", "peek", NO_GROUP, no_group(NO_SUCH_GROUP)),
    bad("no group, a probe", "probe", NO_GROUP, no_group(("result", "absent"))),
    bad("no group, its device nodes", "nodes", NO_GROUP, no_group(NO_SUCH_GROUP)),
    bad("no group, its holders", "holders", NO_GROUP, NO_GROUP_AMONG_GROUPS),
    bad("no group, its state in a watch", "watch_group", NO_GROUP, no_group(("result", "none"))),
    bad("no group, a wait", "wait_free", NO_GROUP, no_group(("result", "false"))),
    bad(
        "a probe with a negative timeout",
        "probe_within",
        b"51 -1",
        Each([
            NONE,
            NONE,
            ("ErrInvalid", "timeout: must not be negative"),
            ("ValueError", "timeout must be None or a number of seconds that is not negative"),
        ]),
    ),
    bad(
        "a snapshot with a negative timeout",
        "snapshot_within",
        b"-1",
        Each([
            NONE,
            NONE,
            ("ErrInvalid", "timeout: must not be negative"),
            ("ValueError", "probe_timeout must be None or a number of seconds that is not negative"),
        ]),
    ),
    bad(
        "a watch with a negative interval",
        "interval",
        b"-1",
        Each([
            NONE,
            NONE,
            ("ErrInvalid", "options: durations must not be negative"),
            ("ValueError", "interval must be between 0.001 and 86400 seconds"),
        ]),
    ),
    bad(
        "a closed root",
        "closed_root",
        b"",
        Each([
            NONE,
            ("invalid", "root: the handle is NULL or closed"),
            ("ErrClosed", "the root is closed"),
            ("ValueError", "the root is closed"),
        ]),
    ),
    bad(
        "a closed watch",
        "closed_watch",
        b"",
        Each([
            NONE,
            ("invalid", "watch: the handle is NULL or closed"),
            ("ErrClosed", "the watch is closed"),
            ("ValueError", "the watch is closed"),
        ]),
    ),
    bad(
        "size and capacity swapped",
        "swapped",
        b"",
        Each([
            NONE,
            ("invalid", "size: must be sizeof the record; it and the number of records are swapped"),
            NONE,
            NONE,
        ]),
    ),
];
