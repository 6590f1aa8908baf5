//! Runs the tests inside the VM, as root, against the real VFIO drivers.
//!
//! Arguments select the tests by parts of their names. Prints a line for each test: `ok NAME`, `FAILED NAME:
//! why` or `not possible NAME: what is missing`. The last line is the count.
#![allow(clippy::indexing_slicing, reason = "only JSON values are indexed; a missing key yields null")]

mod dra;
mod host;
mod kinds;
mod needs;
mod plugin;
mod pod_scenarios;
mod pods;
mod programs;
mod scenarios;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let (mut passed, mut failed, mut impossible) = (0, 0, 0);
    let of_groups = scenarios::ALL.iter().map(|(name, test)| (*name, &[needs::GROUP_NODES][..], *test));
    for (name, needs, test) in of_groups.chain(kinds::ALL.iter().copied()) {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        host::reset();
        if let Some(what) = needs::missing(needs) {
            impossible += 1;
            println!("not possible {name}: {what}");
            continue;
        }
        match catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))) {
            Ok(note) => {
                passed += 1;
                println!("ok {name}{note}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }
    if impossible > 0 {
        println!("{impossible} tests are not possible with this kernel and QEMU");
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
