//! Prints the demo: headings, sentences and checks, and in a terminal the table of devices redrawn above them.

use rustix::termios::tcgetwinsize;
use std::io::Write;
use std::time::{Duration, Instant};

/// The time that a reader in a terminal gets for each sentence.
const READING_TIME: Duration = Duration::from_millis(2500);
/// The number of lines that stay visible below the table.
const VISIBLE_LINES: usize = 14;
/// The spaces before each line of a table in plain text.
const INDENT: usize = 5;

/// The output and the count of checks.
pub(crate) struct Screen {
    live: bool,
    lines: Vec<String>,
    passed: u32,
    failed: u32,
    began: Instant,
}

impl Screen {
    /// Creates a screen that is redrawn in a terminal (`live`), or that prints plain text.
    pub(crate) fn new(live: bool) -> Self {
        Self { live, lines: Vec::new(), passed: 0, failed: 0, began: Instant::now() }
    }

    /// Returns true if the screen is redrawn.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Returns the columns that a table may have on this terminal as it is now; none without a terminal.
    pub(crate) fn columns(&self) -> Option<usize> {
        let stdout = std::io::stdout();
        let columns = tcgetwinsize(stdout).ok().map(|size| usize::from(size.ws_col))?;
        let indent = if self.live { 0 } else { INDENT };
        Some(columns.saturating_sub(indent)).filter(|columns| *columns > 0)
    }

    /// Returns how long to wait for a reader: nothing in plain text.
    pub(crate) fn pause(&self) -> Duration {
        if self.live { READING_TIME } else { Duration::ZERO }
    }

    /// Prints a heading.
    pub(crate) fn heading(&mut self, text: &str) {
        self.line(if self.live { format!("\x1b[1m{text}\x1b[0m") } else { format!("\n== {text}") });
    }

    /// Prints a sentence.
    pub(crate) fn say(&mut self, text: &str) {
        self.line(format!("   {text}"));
    }

    /// Prints and counts a check: what the plugin promises, and if it is so.
    pub(crate) fn check(&mut self, text: &str, passed: bool) {
        let word = match (passed, self.live) {
            (true, false) => "ok".to_owned(),
            (false, false) => "FAILED".to_owned(),
            (true, true) => "\x1b[32mok\x1b[0m".to_owned(),
            (false, true) => "\x1b[31mFAILED\x1b[0m".to_owned(),
        };
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        self.line(format!("{word} {text}"));
    }

    fn line(&mut self, text: String) {
        if !self.live {
            println!("{text}");
        }
        self.lines.push(text);
    }

    /// Redraws the table and the latest lines. Does nothing in plain text.
    pub(crate) fn draw(&self, table: &str) {
        if !self.live {
            return;
        }
        let from = self.lines.len().saturating_sub(VISIBLE_LINES);
        let latest = self.lines.get(from..).unwrap_or_default().join("\n");
        // To the home position; each line is cleared to its end, then the rest of the screen. This avoids flicker.
        let text = format!("{table}\n{latest}\n").replace('\n', "\x1b[K\n");
        print!("\x1b[H{text}\x1b[J");
        let _ = std::io::stdout().flush();
    }

    /// Prints the table in plain text. Does nothing in a terminal, where it is always visible.
    pub(crate) fn show(&mut self, table: &str) {
        if !self.live {
            for line in table.lines() {
                println!("{:INDENT$}{line}", "");
            }
        }
    }

    /// Prints the counts and returns the number of failed checks.
    pub(crate) fn finish(&self) -> u32 {
        let seconds = self.began.elapsed().as_secs_f64();
        println!("\n{} checks passed, {} failed ({seconds:.1} s)", self.passed, self.failed);
        self.failed
    }
}
