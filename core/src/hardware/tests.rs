//! Presence and fatal errors of a function in a temporary tree.

use super::*;
use crate::error::ErrorKind;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

const GPU_AT: PciAddress = PciAddress { domain: 0, bus: 1, device: 0, function: 0 };
const GPU: [u8; 8] = [0xde, 0x10, 0x30, 0x23, 0x06, 0x04, 0x10, 0x00];
const VIRTUAL: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0x06, 0x04, 0x10, 0x00];
const FATAL: &str = "Undefined 0\nDLP 1\nSDES 2\nTOTAL_ERR_FATAL 3\n";

/// A function below a bridge, in a temporary root directory.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.path("")).unwrap();
        fs::create_dir_all(tree.0.path().join("sys/bus/pci/devices")).unwrap();
        symlink(
            "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0",
            tree.0.path().join("sys/bus/pci/devices/0000:01:00.0"),
        )
        .unwrap();
        tree.writes("power_state", "D3hot\n").writes("../power_state", "D0\n").writes("config", GPU)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0").join(name)
    }

    fn writes(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn lacks(self, name: &str) -> Self {
        fs::remove_file(self.path(name)).unwrap();
        self
    }

    fn presence(&self) -> std::result::Result<Presence, ErrorKind> {
        let root = Root::open(self.0.path()).unwrap();
        root.presence(GPU_AT).map_err(|error| error.kind)
    }

    fn fatal(&self) -> std::result::Result<Option<u64>, ErrorKind> {
        let root = Root::open(self.0.path()).unwrap();
        root.fatal_errors(GPU_AT).map_err(|error| error.kind)
    }
}

#[test]
fn function_is_lost_only_if_all_registers_are_ones() {
    assert_eq!(Tree::new().presence(), Ok(Presence::Present));
    assert_eq!(Tree::new().writes("config", VIRTUAL).presence(), Ok(Presence::Present));
    assert_eq!(Tree::new().writes("config", [0xff; 256]).presence(), Ok(Presence::Lost));
    // Request Retry Status: the function is present and not ready yet (PCIe 6.0, 2.3.2).
    let not_ready = [0x01, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(Tree::new().writes("config", not_ready).presence(), Ok(Presence::Present));
}

#[test]
fn sleeping_function_is_read_only_when_waking_is_allowed() {
    // `config` is a directory here, so an attempt to read it is an error.
    let asleep = || {
        let tree = Tree::new().lacks("config");
        fs::create_dir(tree.path("config")).unwrap();
        tree
    };
    assert_eq!(asleep().presence(), Err(ErrorKind::System));
    let waking =
        |tree: &Tree| Root::open(tree.0.path()).unwrap().presence_waking(GPU_AT).map_err(|error| error.kind);
    assert_eq!(waking(&asleep().writes("power_state", "D3cold\n")), Err(ErrorKind::System));
    assert_eq!(waking(&Tree::new().writes("power_state", "D3cold\n")), Ok(Presence::Present));
    let lost = Tree::new().writes("power_state", "D3cold\n").writes("config", [0xff; 64]);
    assert_eq!((lost.presence(), waking(&lost)), (Ok(Presence::NotChecked), Ok(Presence::Lost)));
    for state in ["D3cold\n", "unknown\n", "error\n", "", "D0D0\n"] {
        assert_eq!(asleep().writes("power_state", state).presence(), Ok(Presence::NotChecked), "{state}");
    }
    assert_eq!(asleep().lacks("power_state").presence(), Ok(Presence::NotChecked));
    for state in ["D3hot\n", "D3cold\n", "unknown\n"] {
        let tree = asleep().writes("../power_state", state);
        assert_eq!(tree.presence(), Ok(Presence::NotChecked), "bridge {state}");
    }
    assert_eq!(Tree::new().writes("power_state", "D0\n").presence(), Ok(Presence::Present));
    // A function on a root bus.
    assert_eq!(Tree::new().lacks("../power_state").presence(), Ok(Presence::Present));
}

#[test]
fn reader_sees_changes_through_kept_attributes() {
    let tree = Tree::new();
    let root = Root::open(tree.0.path()).unwrap();
    let mut reader = PresenceReader::new(GPU_AT);
    assert_eq!(reader.read(&root), Ok(Presence::Present));
    // Without a path to it, only an open attribute can be read.
    let link = tree.0.path().join("sys/bus/pci/devices/0000:01:00.0");
    let (gone, state) = (link.with_extension("gone"), |name: &str| tree.path(name));
    fs::rename(&link, &gone).unwrap();
    assert_eq!(root.presence(GPU_AT), Ok(Presence::NotChecked));
    fs::write(state("config"), [0xff; 64]).unwrap();
    assert_eq!(reader.read(&root), Ok(Presence::Lost));
    fs::write(state("config"), GPU).unwrap();
    assert_eq!(reader.read(&root), Ok(Presence::Present));
    for name in ["power_state", "../power_state"] {
        let before = fs::read(state(name)).unwrap();
        fs::write(state(name), "D3cold\n").unwrap();
        assert_eq!(reader.read(&root), Ok(Presence::NotChecked), "{name}");
        fs::write(state(name), before).unwrap();
        assert_eq!(reader.read(&root), Ok(Presence::Present), "{name}");
    }
    assert_eq!(PresenceReader::new(GPU_AT).read(&root), Ok(Presence::NotChecked), "opens by path");
}

#[test]
fn reader_agrees_with_a_single_read() {
    for tree in [
        Tree::new(),
        Tree::new().lacks("../power_state"),
        Tree::new().lacks("power_state"),
        Tree::new().lacks("config"),
        Tree::new().writes("config", [0xff; 7]),
        Tree::new().writes("config", VIRTUAL),
        Tree::new().writes("power_state", "error\n"),
    ] {
        let root = Root::open(tree.0.path()).unwrap();
        let mut reader = PresenceReader::new(GPU_AT);
        for _ in 0..2 {
            assert_eq!(reader.read(&root), root.presence(GPU_AT));
        }
    }
}

#[test]
fn unexpected_content_is_an_error() {
    assert_eq!(Tree::new().writes("config", [0xff; 7]).presence(), Err(ErrorKind::Malformed));
    assert_eq!(Tree::new().lacks("config").presence(), Err(ErrorKind::Missing));
    assert_eq!(Tree::new().writes("power_state", [b'D'; PAGE]).presence(), Err(ErrorKind::TooLong));
    let fifo = Tree::new().lacks("config");
    let mode = rustix::fs::Mode::RUSR;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, fifo.path("config"), kind, mode, 0).unwrap();
    assert_eq!(fifo.presence(), Err(ErrorKind::System));
}

#[test]
fn fatal_errors_are_the_total_of_the_kernel() {
    assert_eq!(Tree::new().fatal(), Ok(None));
    assert_eq!(Tree::new().writes("aer_dev_fatal", FATAL).fatal(), Ok(Some(3)));
    for text in ["", "TOTAL_ERR_FATAL\n", "TOTAL_ERR_FATAL -1\n", "DLP 1\n", "TOTAL_ERR_COR 3\n"] {
        let tree = Tree::new().writes("aer_dev_fatal", text);
        assert_eq!(tree.fatal(), Err(ErrorKind::Malformed), "{text}");
    }
    let long = Tree::new().writes("aer_dev_fatal", [b'x'; PAGE]);
    assert_eq!(long.fatal(), Err(ErrorKind::TooLong));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text: Vec<u8>) {
        total_fatal(&text);
    }

    #[test]
    fn total_is_found_among_other_lines(lines in proptest::collection::vec("[A-Z]{1,9} [0-9]{1,9}", 0..20), total: u64) {
        let text = format!("{}\nTOTAL_ERR_FATAL {total}\n", lines.join("\n"));
        prop_assert_eq!(total_fatal(text.as_bytes()), Some(total));
    }
}

#[test]
fn hardware_combines_presence_and_fatal_errors() {
    let hardware = |tree: &Tree, address| {
        let root = Root::open(tree.0.path()).unwrap();
        root.hardware(address).map_err(|error| (error.kind, error.device))
    };
    let tree = Tree::new();
    let known = Hardware { presence: Presence::Present, fatal_errors: None };
    assert_eq!(hardware(&tree, GPU_AT), Ok(known));
    let tree = tree.writes("aer_dev_fatal", FATAL).writes("config", [0xff; 64]);
    let known = Hardware { presence: Presence::Lost, fatal_errors: Some(3) };
    assert_eq!(hardware(&tree, GPU_AT), Ok(known));
    let absent = PciAddress { bus: 2, ..GPU_AT };
    assert_eq!(hardware(&tree, absent), Err((ErrorKind::Missing, Some(DeviceId::Pci(absent)))));
}
