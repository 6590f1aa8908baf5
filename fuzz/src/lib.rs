//! Fuzz targets: one function for each parser of input from outside. A target asserts what holds for every input: the same
//! result as another implementation, the same value after a round trip, and a bound on the peak of the memory.

mod claims;
mod kernel;
mod kubelet;
mod own_files;

pub use claims::{claim, claim_record, kubelet_claims};
pub use kernel::{cgroup, device_id, pci_ids, uevent};
pub use kubelet::{alloc_response, checkpoint, pod_resources};
pub use own_files::{pools, state_file, status};

/// Runs a parser and asserts that it never holds more than `most` bytes at once.
fn bounded<T>(most: usize, parse: impl FnOnce() -> T) -> T {
    let mut result = None;
    let peak = allocation_counter::measure(|| result = Some(parse())).bytes_max;
    assert!(peak <= most as u64, "{peak} bytes at once, expected at most {most}");
    result.expect("the closure ran")
}
