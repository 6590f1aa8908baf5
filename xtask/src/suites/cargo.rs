//! The Rust tests, with the model's apart from all others, and the C library's.

use crate::context::Context;
use crate::{Result, process};

/// The tests of plugin/policy that visit every state of a small world.
const MODELS: [&str; 2] = ["model", "dra_model"];

/// Runs the model's tests, which `rust-tests` leaves out. The arguments are the test program's.
///
/// # Errors
///
/// Fails if the tests do not build.
pub fn model(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let mut succeeded = true;
    for name in MODELS {
        let mut model = context.command(context.test_program(name)?);
        succeeded &= model.current_dir(context.top.join("plugin/policy")).args(arguments).status()?.success();
    }
    Ok(succeeded)
}

/// Runs the tests of all crates without the model's.
///
/// # Errors
///
/// Fails if the tests do not build.
pub fn rust_tests(context: &mut Context, _: &[String]) -> Result<bool> {
    let mut listed = String::new();
    for name in MODELS {
        let mut model = context.command(context.test_program(name)?);
        listed += &process::output(model.current_dir(context.top.join("plugin/policy")).arg("--list"))?;
        listed.push('\n');
    }
    let names: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let mut tests = context.cargo(&["test", "--workspace", "--no-fail-fast", "--", "--exact"]);
    tests.args(names.iter().map(|name| format!("--skip={name}")));
    let mut skipped = 0;
    let status = process::each_line(tests, |line| {
        process::print(line);
        skipped += filtered_out(line);
    })?;
    // `--exact` compares names only: a test elsewhere may have the name of one of the model's.
    if skipped != names.len() {
        process::print_line("error: a test has the same name as one of the model's; rename it");
    }
    Ok(status.success() && skipped == names.len())
}

/// Returns how many tests a line of cargo test's results says were filtered out.
fn filtered_out(line: &str) -> usize {
    let Some((before, _)) = line.split_once(" filtered out;") else { return 0 };
    let number = before.rsplit(' ').next().and_then(|number| number.parse().ok());
    number.filter(|_| line.starts_with("test result: ")).unwrap_or(0)
}

/// Tests the C library as users get it: the ignored tests of `ffi/tests/c_library.rs`. The arguments are the test program's.
///
/// # Errors
///
/// Fails if cargo does not run.
pub fn c(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let mut tests = context.cargo(&["test", "--workspace", "--test", "c_library", "--", "--ignored"]);
    Ok(tests.args(arguments).status()?.success())
}

#[cfg(test)]
mod tests {
    use super::filtered_out;

    #[test]
    fn filtered_tests_are_read_from_results_only() {
        let result = "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 11 filtered out; finished in 2.40s\n";
        assert_eq!(filtered_out(result), 11);
        assert_eq!(filtered_out("printed: 3 filtered out; \n"), 0);
    }
}
