//! The texts of errors, as a caller meets them.

use std::fs;
use std::path::Path;
use vfio_probe::{Buffer, Detail, GroupId, Root};

#[test]
fn root_that_does_not_open_is_named_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a-name-of-more-than-thirty-two-bytes-with-é\n");
    let error = Root::open(&path).unwrap_err();
    let shown = path.to_str().unwrap().replace('\n', "\\n");
    assert_eq!(error.to_string(), format!("root directory {shown}: No such file or directory"));
    assert_eq!(error.path().unwrap(), path);
}

#[test]
fn absent_device_and_group_are_said_to_be_absent() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(&directory).unwrap();
    let error = root.device("0000:77:00.0".parse().unwrap(), Detail::Full).unwrap_err();
    assert_eq!(error.to_string(), "0000:77:00.0: no such device on the pci bus");
    assert_eq!(error.group, None);
    let uuid = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    let error = root.device(uuid.parse().unwrap(), Detail::Full).unwrap_err();
    assert_eq!(error.to_string(), format!("{uuid}: no such device on the mdev bus"));
    let error = root.group(GroupId(4000), &mut Buffer::new()).unwrap_err();
    assert_eq!(error.to_string(), "group 4000: no such IOMMU group");
}

#[test]
fn odd_entry_is_named_whole() {
    let directory = tempfile::tempdir().unwrap();
    let name = "entry-of-more-than-thirty-two-bytes-é";
    fs::create_dir_all(directory.path().join("sys/class/vfio-dev").join(name)).unwrap();
    let mut errors = Vec::new();
    let root = Root::open(&directory).unwrap();
    root.bound(&mut Buffer::new(), |bound| errors.extend(bound.err())).unwrap();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(error.to_string(), format!("sys/class/vfio-dev/{name}: unexpected content"));
    assert_eq!(error.path().unwrap(), Path::new("sys/class/vfio-dev").join(name));
}
