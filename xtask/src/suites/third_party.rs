//! Checks the notices of other authors' software: the files in the repository, and the recipe for those of a release.

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::release::licenses;
use crate::release::target::Target;
use crate::suite::Suite;
use crate::{Result, process};

/// A file in the repository, and cargo's features of the library that it is about.
const FILES: [(&str, &[&str]); 2] = [
    ("go/vfioprobe/THIRD-PARTY", &[]),
    ("python/THIRD-PARTY", &["--no-default-features", "--features", "python"]),
];
const LIBRARY: &str = "vfio-probe-ffi";
const PROGRAM: &str = "vfio-device-plugin";

/// Compares the files with what is linked now: the task `third-party [--update]`. `--update` writes them first.
///
/// # Errors
///
/// Fails if cargo or rustc does not run.
pub fn third_party(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let target = Target::host()?;
    let context = &*context;
    let mut suite = Suite::new();
    for (file, features) in FILES {
        let path = context.top.join(file);
        let text = || licenses::third_party(context, LIBRARY, features, &target, false);
        if arguments.iter().any(|argument| argument == "--update") {
            process::write(&path, text()?)?;
        }
        suite
            .check(&format!("{file} is current"), |log| compare(file, &process::read(&path)?, &text()?, log));
    }
    suite.check("every part of the static program has a license text", |_| {
        let text = licenses::third_party(context, PROGRAM, &[], &target, true)?;
        let crates = licenses::linked(context, PROGRAM, &[], &target)?;
        let of_others = crates.keys().filter(|key| !key.contains(" (/"));
        let expected = of_others.map(String::as_str).chain(["GNU C Library", "Rust's standard library"]);
        for part in expected {
            let named = text.lines().any(|line| line.starts_with(part) && line.ends_with(']'));
            ensure(named, &format!("THIRD-PARTY of the program lacks {part}"))?;
        }
        Ok(())
    });
    Ok(suite.end())
}

/// Compares a file with the text of now. Another architecture links other crates, and another Rust has other notices: then the
/// file cannot be compared, which is printed.
fn compare(file: &str, checked_in: &str, text: &str, log: &mut Log) -> Result {
    let rust =
        |text: &str| text.lines().find(|line| line.starts_with("Rust's standard library")).map(str::to_owned);
    for (what, ours, theirs) in [
        ("target", text.lines().next().map(str::to_owned), checked_in.lines().next().map(str::to_owned)),
        ("Rust", version(rust(text)), version(rust(checked_in))),
    ] {
        if ours != theirs && theirs.is_some() {
            process::print_line(format_args!(
                "not checked: {file}: this host has another {what} than the file names"
            ));
            return Ok(());
        }
    }
    for line in text.lines().filter(|line| !checked_in.lines().any(|known| known == *line)).take(20) {
        log.say(&format!("+{line}"));
    }
    for line in checked_in.lines().filter(|line| !text.lines().any(|known| known == *line)).take(20) {
        log.say(&format!("-{line}"));
    }
    ensure(
        checked_in == text,
        &format!("{file} is not what is linked now; run `scripts/xtask third-party --update`"),
    )
}

/// Returns the line of Rust's standard library without the number of its text.
fn version(line: Option<String>) -> Option<String> {
    line.map(|line| line.split(':').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Software of a for x86_64\n\nb 1.0.0: MIT [1]\nRust's standard library 1.95.0: MIT OR Apache-2.0 [2]\n";

    #[test]
    fn other_crate_or_missing_file_is_found() {
        let mut log = Log::new().unwrap();
        assert!(compare("file", TEXT, TEXT, &mut log).is_ok());
        let other = TEXT.replace("b 1.0.0", "b 1.0.1");
        assert!(compare("file", &other, TEXT, &mut log).unwrap_err().to_string().contains("--update"));
        assert!(compare("file", "", TEXT, &mut log).is_err());
    }

    #[test]
    fn file_of_another_target_or_rust_is_not_compared() {
        let mut log = Log::new().unwrap();
        for other in [TEXT.replace("x86_64", "aarch64"), TEXT.replace("1.95.0", "1.96.0")] {
            assert!(compare("file", &other.replace("b 1.0.0", "c 1"), TEXT, &mut log).is_ok());
        }
    }
}
