//! One case for each text that an error can have.

use super::*;
use std::path::Path;

fn device() -> DeviceId {
    "0000:3b:00.0".parse().unwrap()
}

#[test]
fn text_names_the_device_and_the_attribute() {
    let error = Error::system(Errno::ACCESS, "numa_node").of_device(device());
    assert_eq!(error.to_string(), "0000:3b:00.0: numa_node: Permission denied");
    assert_eq!(error.path().unwrap(), Path::new("sys/bus/pci/devices/0000:3b:00.0/numa_node"));
}

#[test]
fn absent_device_and_group_are_named_as_absent() {
    let error = Error::system(Errno::NOENT, "").of_device(device());
    assert_eq!(error.to_string(), "0000:3b:00.0: no such device on the pci bus");
    assert_eq!(error.path().unwrap(), Path::new("sys/bus/pci/devices/0000:3b:00.0"));
    let error = Error::system(Errno::NOENT, "").of_group(GroupId(7));
    assert_eq!(error.to_string(), "group 7: no such IOMMU group");
    assert_eq!(error.path().unwrap(), Path::new("sys/kernel/iommu_groups/7"));
}

#[test]
fn entry_is_shown_whole_and_kept_exactly() {
    let entry = b"x\ny-\xc3\xa9-\xff-a-name-of-more-than-thirty-two-bytes";
    let error = Error::malformed("sys/class/vfio-dev").of_entry(entry);
    let text =
        "sys/class/vfio-dev/x\\ny-\u{e9}-\u{fffd}-a-name-of-more-than-thirty-two-bytes: unexpected content";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.entry().unwrap().as_bytes(), entry);
    let path = [b"sys/class/vfio-dev/", &entry[..]].concat();
    assert_eq!(error.path().unwrap().as_os_str().as_bytes(), path);
}

#[test]
fn member_of_a_group_is_named_with_its_group() {
    let error = Error::system(Errno::IO, "driver").of_group(GroupId(7)).of_device(device());
    assert_eq!(error.to_string(), "group 7: 0000:3b:00.0: driver: Input/output error");
    let path = "sys/kernel/iommu_groups/7/devices/0000:3b:00.0/driver";
    assert_eq!(error.path().unwrap(), Path::new(path));
}

#[test]
fn path_of_the_caller_is_returned_as_passed() {
    let path = format!("/{}", "directory/".repeat(40));
    let error = Error::system(Errno::NOENT, "root directory").of_path(&path);
    assert_eq!(error.to_string(), format!("root directory {path}: No such file or directory"));
    assert_eq!(error.path().unwrap().as_os_str(), path.as_str());
    assert_eq!(error.entry(), None);
}

#[test]
fn kernel_object_has_no_path() {
    let error = Error::system(Errno::MFILE, "eventfd");
    assert_eq!(error.to_string(), "eventfd: Too many open files");
    assert_eq!(error.path(), None);
}

#[test]
fn error_stays_small_enough_to_return_by_value() {
    assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
}
