//! What the demo shows: sentences and promises, and where there is a terminal, the table of devices redrawn above them.

use std::io::Write;
use std::time::{Duration, Instant};

/// How long a live reader is given for each sentence.
const READ: Duration = Duration::from_millis(2500);
/// Lines of the story that stay in sight below the table.
const LINES: usize = 14;

/// The output.
pub(crate) struct Screen {
    live: bool,
    lines: Vec<String>,
    kept: u32,
    broken: u32,
    began: Instant,
}

impl Screen {
    /// Plain text, or a live terminal.
    pub(crate) fn new(live: bool) -> Self {
        Self { live, lines: Vec::new(), kept: 0, broken: 0, began: Instant::now() }
    }

    /// Whether it is redrawn.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// How long to let a reader read.
    pub(crate) fn pause(&self) -> Duration {
        if self.live { READ } else { Duration::ZERO }
    }

    /// A heading.
    pub(crate) fn act(&mut self, text: &str) {
        self.line(if self.live { format!("\x1b[1m{text}\x1b[0m") } else { format!("\n== {text}") });
    }

    /// A sentence of the story.
    pub(crate) fn tell(&mut self, text: &str) {
        self.line(format!("   {text}"));
    }

    /// A promise, and whether it held.
    pub(crate) fn promise(&mut self, text: &str, held: bool) {
        let word = match (held, self.live) {
            (true, false) => "ok".to_owned(),
            (false, false) => "FAILED".to_owned(),
            (true, true) => "\x1b[32mok\x1b[0m".to_owned(),
            (false, true) => "\x1b[31mFAILED\x1b[0m".to_owned(),
        };
        if held {
            self.kept += 1;
        } else {
            self.broken += 1;
        }
        self.line(format!("{word} {text}"));
    }

    fn line(&mut self, text: String) {
        if !self.live {
            println!("{text}");
        }
        self.lines.push(text);
    }

    /// Redraws the table and the latest lines.
    pub(crate) fn draw(&self, table: &str) {
        if !self.live {
            return;
        }
        let from = self.lines.len().saturating_sub(LINES);
        let story = self.lines.get(from..).unwrap_or_default().join("\n");
        // Home, then every line cleared to its end, then the rest of the screen: no flicker.
        let text = format!("{table}\n{story}\n").replace('\n', "\x1b[K\n");
        print!("\x1b[H{text}\x1b[J");
        let _ = std::io::stdout().flush();
    }

    /// The table as part of a plain story.
    pub(crate) fn show(&mut self, table: &str) {
        if !self.live {
            for line in table.lines() {
                println!("     {line}");
            }
        }
    }

    /// The last word; the number of broken promises.
    pub(crate) fn finish(&self) -> u32 {
        let seconds = self.began.elapsed().as_secs_f64();
        println!("\n{} promises held, {} did not ({seconds:.1} s)", self.kept, self.broken);
        self.broken
    }
}
