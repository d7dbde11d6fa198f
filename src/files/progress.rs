//! A progress bar for reading files: bytes, rate, time left. Shown on a terminal only, on standard error.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::FileSource;

/// The bar of one run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for this source; silent where standard error is not a terminal.
    #[must_use]
    pub fn new(source: &FileSource) -> Self {
        Self::of(source.total_bytes(), std::io::stderr().is_terminal())
    }

    fn of(total: Option<u64>, terminal: bool) -> Self {
        if !terminal {
            return Progress { bar: ProgressBar::hidden() };
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{bar:30} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left  {msg}"),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {binary_bytes_per_sec}  {msg}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("INV: the templates are constants that a test builds"));
        Progress { bar }
    }

    /// Shows how far reading is, with a few words beside it (such as findings so far). Cheap, but call it per batch, not per line.
    pub fn show(&self, bytes_read: u64, words: impl Into<String>) {
        self.bar.set_position(bytes_read);
        self.bar.set_message(words.into());
    }

    /// Takes the bar away, so that the summary stands alone.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line above the bar, on standard error.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bars_can_be_built_and_hidden_ones_stay_hidden() {
        for total in [Some(10), None] {
            let progress = Progress::of(total, true);
            progress.bar.set_position(5);
            assert_eq!(progress.bar.position(), 5);
            progress.finish();
        }
        assert!(Progress::of(Some(10), false).bar.is_hidden());
    }
}
