//! How much room the file systems have on which the tests write.

use std::path::Path;

use crate::context::Context;
use crate::process;

/// Returns the free space of the file system of a directory, in GB (10⁹ bytes), for users who are not root. None if it cannot be found
/// out.
#[must_use]
pub fn free(context: &Context, directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let output = process::output(context.command("df").arg("-Pk").arg(existing)).ok()?;
    kilobytes(&output).map(|kilobytes| kilobytes.saturating_mul(1024) / 1_000_000_000)
}

/// Returns the smallest free space of all file systems on which the tests write: of the target directory, the user's cache and the
/// temporary directory.
#[must_use]
pub fn least_free(context: &Context) -> Option<u64> {
    let places = [context.target.clone(), context.cache.clone(), std::env::temp_dir()];
    places.iter().filter_map(|place| free(context, place)).min()
}

/// Reads the fourth column of the last line: POSIX defines the format of `df -P`.
fn kilobytes(output: &str) -> Option<u64> {
    output.lines().last()?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_the_fourth_column() {
        let output = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                      /dev/vda         263174212 20011212  75000000      22% /\n";
        assert_eq!(kilobytes(output), Some(75_000_000));
        assert_eq!(kilobytes("Filesystem 1024-blocks Used Available Capacity Mounted on\n"), None);
        assert_eq!(kilobytes(""), None);
    }

    #[test]
    fn missing_directory_has_the_free_space_of_its_parent() {
        let context = Context::new().unwrap();
        assert!(free(&context, Path::new("/")).is_some());
        assert!(free(&context, Path::new("/no/such/directory")).is_some());
        assert!(least_free(&context).is_some());
    }
}
