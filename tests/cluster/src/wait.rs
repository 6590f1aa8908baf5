//! Waits for a condition with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// Time between two checks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Checks at once and then every half a second, until the check returns a value. An error of the check is not the end of the wait.
///
/// # Errors
///
/// Fails after the limit, with what was awaited and the last error of the check.
pub fn wait<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!("; last: {error}"),
        };
        if Instant::now() >= deadline {
            return Err(format!("{what}: not within {} s{last}", limit.as_secs()).into());
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_ends_the_wait_and_errors_do_not() {
        let mut checks = 0;
        let value = wait("three checks", Duration::from_secs(60), || {
            checks += 1;
            match checks {
                1 => Err("not yet".into()),
                2 => Ok(None),
                _ => Ok(Some(checks)),
            }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn limit_names_what_was_awaited_and_the_last_error() {
        let error = wait("a pod", Duration::ZERO, || -> Result<Option<()>> { Err("no such pod".into()) });
        assert_eq!(error.unwrap_err().to_string(), "a pod: not within 0 s; last: no such pod");
    }
}
