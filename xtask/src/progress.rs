//! One line of progress for each long step: a bar on a terminal, plain lines elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The lines of all steps that are under way, one below the other.
static LINES: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A step that is under way; its line disappears when it is dropped.
pub struct Step {
    bar: ProgressBar,
    title: String,
    started: Instant,
}

impl Step {
    /// Begins a step of unknown length.
    pub fn start(title: &str) -> Self {
        let bar = LINES.add(ProgressBar::new_spinner());
        bar.set_style(ProgressStyle::with_template("{spinner:.cyan} {prefix:<26} {msg}").expect("valid template"));
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        if !std::io::stderr().is_terminal() {
            eprintln!("{title} ...");
        }
        Step { bar, title: title.to_owned(), started: Instant::now() }
    }

    /// Shows how far the step is, `total` being the end.
    pub fn advance(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            let style = "{spinner:.cyan} {prefix:<26} [{bar:24.cyan/blue}] {percent:>3} % {eta:>5} {msg}";
            self.bar.set_style(ProgressStyle::with_template(style).expect("valid template").progress_chars("=> "));
        }
        self.bar.set_position(done.min(total));
    }

    /// Says what the step is doing.
    pub fn note(&self, text: &str) {
        self.bar.set_message(text.chars().take(60).collect::<String>());
    }

    /// Ends the step with a lasting line.
    pub fn done(self, text: &str) {
        self.bar.finish_and_clear();
        let time = self.started.elapsed().as_secs_f32();
        LINES.suspend(|| eprintln!("{:<28} {text} ({time:.1} s)", self.title));
    }

    /// Prints a lasting line above the step.
    pub fn println(&self, text: &str) {
        self.hidden(|| eprintln!("{text}"));
    }

    /// Does something that prints while the lines are out of the way.
    pub fn hidden(&self, print: impl FnOnce()) {
        LINES.suspend(print);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
