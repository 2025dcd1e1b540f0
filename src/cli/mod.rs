//! The command line: one file per verb, and what they share.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

mod bench;
mod dataset;
mod device;
mod evaluate;
mod frame_size;
mod import;
mod info;
mod phantom;
mod progress;
mod segment;
mod train;
mod tune;
mod tuning;
mod verify;

use clap::{Parser, Subcommand};
use coronet::{Error, Result};
use std::any::Any;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;

/// Segments coronary arteries in angiographic video
#[derive(Debug, Parser)]
#[command(name = "coronet", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// Every verb has a file of its own, with its `Arguments` and a `run`.
#[derive(Debug, Subcommand)]
enum Verb {
    Segment(segment::Arguments),
    Train(train::Arguments),
    Evaluate(evaluate::Arguments),
    Phantom(phantom::Arguments),
    Dataset(dataset::Arguments),
    Import(import::Arguments),
    Verify(verify::Arguments),
    Bench(bench::Arguments),
    Tune(tune::Arguments),
    Info(info::Arguments),
}

impl Verb {
    /// What is wrong with options together, where clap cannot tell.
    fn problem(&self) -> Option<&'static str> {
        match self {
            Verb::Segment(arguments) => arguments.problem(),
            _ => None,
        }
    }
}

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    let Arguments { verb } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refusal) => return refuse(&refusal),
    };
    if let Some(problem) = verb.problem() {
        note(&format!("coronet: {problem}; see --help"));
        return ExitCode::from(2);
    }
    // A panic is reported below, as one sentence; with RUST_BACKTRACE its place and trace come before it.
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        panic::set_hook(Box::new(|_| {}));
    }
    let done = panic::catch_unwind(AssertUnwindSafe(|| match verb {
        Verb::Segment(arguments) => segment::run(&arguments),
        Verb::Train(arguments) => train::run(&arguments),
        Verb::Evaluate(arguments) => evaluate::run(&arguments),
        Verb::Phantom(arguments) => phantom::run(&arguments),
        Verb::Dataset(arguments) => dataset::run(&arguments),
        Verb::Import(arguments) => import::run(&arguments),
        Verb::Verify(arguments) => verify::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Tune(arguments) => tune::run(&arguments),
        Verb::Info(arguments) => info::run(&arguments),
    }));
    match done.unwrap_or_else(|panic| Err(Error::Internal(panic_text(&*panic)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(
                if matches!(error, Error::Interrupted | Error::InterruptedAfter(_) | Error::InterruptedRun { .. }) {
                    130
                } else {
                    1
                },
            )
        }
    }
}

/// Help and version as they are; wrong usage as one line, like every other failure, with exit code 2.
fn refuse(refusal: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(refusal.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        refusal.exit();
    }
    note(&format!("coronet: {}", usage_sentence(&refusal.render().to_string())));
    ExitCode::from(2)
}

/// clap's paragraphs about wrong usage without the usage itself, which `--help` shows.
fn usage_sentence(text: &str) -> String {
    let about = |paragraph: &&str| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information");
    let said = text.trim_start_matches("error: ").split("\n\n").map(str::trim).filter(about);
    let mut said: Vec<String> = said.map(one_line).collect();
    said.push("see --help".into());
    said.join("; ")
}

/// Without line breaks and indents, and with nothing that a terminal would obey.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a reason").to_owned()
}

/// One line on stderr, whatever line breaks and control characters a foreign message or name brings along.
fn report(error: &Error) {
    note(&format!("coronet: {}", one_line(&error.to_string())));
}

/// A line on stderr. That nobody reads it any more is no reason to stop.
fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Refuses to write into a data set: whatever lies in its folder would be taken for a clip from then on.
fn check_outside(data: &Path, out: &Path) -> Result<()> {
    // The part of the path that exists, without links, and the rest behind it.
    let real = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        path.ancestors().find_map(|there| Some(there.canonicalize().ok()?.join(path.strip_prefix(there).ok()?)))
    };
    if let (Some(within), Some(whole)) = (real(out), real(data))
        && within.starts_with(whole)
    {
        let (out, data) = (out.display(), data.display());
        return Err(Error::Request(format!("{out} lies in the data set {data}; choose a folder outside of it")));
    }
    Ok(())
}

/// `1 clip`, `2 clips`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A result on stdout. A reader that has gone away (`coronet ... | head -1`) has had what it wanted.
fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Io { action: "write to", path: "standard output".into(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_one_line() {
        let text = "error: unexpected argument '--x' found\n\n  tip: a similar\n  argument exists: '--y'\n\n\
                    Usage: coronet segment --y\n\nFor more information, try '--help'.\n";
        let expected = "unexpected argument '--x' found; tip: a similar argument exists: '--y'; see --help";
        assert_eq!(usage_sentence(text), expected);
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(one_line("a\u{1b}[2J\n\tb\u{7}\u{9b}1mé"), "a\\u{1b}[2J b\\u{7}\\u{9b}1mé");
    }

    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_but_a_full_disk_is() {
        assert!(print(&mut Closed(io::ErrorKind::BrokenPipe), "text").is_ok());
        let error = print(&mut Closed(io::ErrorKind::StorageFull), "text").unwrap_err();
        assert!(error.to_string().starts_with("cannot write to standard output: "), "{error}");
    }
}
