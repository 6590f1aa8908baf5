//! The tests that run inside the VM, as root, against the real VFIO driver.
//!
//! Arguments: only tests whose name contains one of them. Prints `ok NAME` or `FAILED NAME: why`, and the count at the end.
#![allow(clippy::indexing_slicing, reason = "only JSON values are indexed: Null where there is nothing")]

mod host;
mod plugin;
mod pods;
mod programs;
mod scenarios;
mod stories;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in scenarios::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        host::reset();
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
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
