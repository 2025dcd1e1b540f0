//! How far a run is: a bar on a terminal, a line now and then elsewhere, nothing when asked to be quiet. And Ctrl-C.

use super::note;
use coronet::dataset::Watcher;
use coronet::segment::{FrameReport, Observer};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set by the first Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C asks the run to stop, which it does after the frame or check at hand; the second one
/// ends the process at once.
pub fn listen_for_ctrl_c() {
    // Without a handler Ctrl-C still ends the process; only the hidden folder stays, for the next run to remove.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
}

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Shows a run to whoever sits in front of it.
pub struct Progress(Display);

enum Display {
    Nothing,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    unit: &'static str,
    total: usize,
    done: usize,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Counts `unit`, a plural such as `frames`.
    pub fn new(unit: &'static str, quiet: bool) -> Progress {
        let now = Instant::now();
        Progress(if quiet {
            Display::Nothing
        } else if std::io::stderr().is_terminal() {
            Display::Bar(ProgressBar::new(0).with_style(bar_style(unit)))
        } else {
            Display::Lines(Mutex::new(Lines { unit, total: 0, done: 0, begun: now, told: now }))
        })
    }
}

fn bar_style(unit: &'static str) -> ProgressStyle {
    let speed = move |state: &ProgressState, out: &mut dyn Write| {
        let _ = write!(out, "{:.1} {unit}/s", state.per_sec());
    };
    // The template is a constant of this file; were it wrong, the plain bar would do.
    ProgressStyle::with_template(&template(unit))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("speed", speed)
}

fn template(unit: &str) -> String {
    format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{speed}}, {{eta}} left")
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Progress {
    /// From now on there are `total` to do.
    pub fn begin(&self, total: usize) {
        match &self.0 {
            Display::Nothing => {}
            Display::Bar(bar) => {
                bar.set_length(total as u64);
                bar.reset();
            }
            Display::Lines(lines) => {
                let now = Instant::now();
                let mut lines = lines.lock().unwrap_or_else(|e| e.into_inner());
                *lines = Lines { unit: lines.unit, total, done: 0, begun: now, told: now };
            }
        }
    }

    /// One more is done.
    pub fn advance(&self) {
        match &self.0 {
            Display::Nothing => {}
            Display::Bar(bar) => bar.inc(1),
            Display::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(|e| e.into_inner());
                lines.done += 1;
                if lines.told.elapsed() >= BETWEEN_LINES && lines.done < lines.total {
                    lines.told = Instant::now();
                    note(&line(lines.unit, lines.done, lines.total, lines.begun.elapsed()));
                }
            }
        }
    }
}

/// Whether Ctrl-C asked the run to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

impl Observer for Progress {
    fn started(&self, frames: usize) {
        self.begin(frames);
    }

    fn frame_done(&self, _report: &FrameReport) {
        self.advance();
    }

    fn interrupted(&self) -> bool {
        interrupted()
    }
}

impl Watcher for Progress {
    fn begun(&self, frames: usize) {
        self.begin(frames);
    }

    fn frame_done(&self) {
        self.advance();
    }

    fn interrupted(&self) -> bool {
        interrupted()
    }
}

fn line(unit: &str, done: usize, total: usize, elapsed: Duration) -> String {
    let per_second = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = (total - done) as f64 / per_second;
    format!("coronet: {done} of {total} {unit}, {per_second:.1} {unit}/s, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = line("frames", 40, 100, Duration::from_secs(20));
        assert_eq!(text, "coronet: 40 of 100 frames, 2.0 frames/s, 30 s left");
    }

    #[test]
    fn the_bars_template_is_right() {
        assert!(ProgressStyle::with_template(&template("frames")).is_ok());
    }
}
