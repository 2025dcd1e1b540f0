//! The command line: one file per verb, and what they share.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

mod info;
mod progress;
mod segment;

use clap::{Parser, Subcommand};
use coronet::{Error, Result};
use std::any::Any;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
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
    Info(info::Arguments),
}

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    let Arguments { verb } = Arguments::parse();
    // A panic is reported below, as one sentence; with RUST_BACKTRACE its place and trace come before it.
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        panic::set_hook(Box::new(|_| {}));
    }
    let done = panic::catch_unwind(AssertUnwindSafe(|| match verb {
        Verb::Segment(arguments) => segment::run(&arguments),
        Verb::Info(arguments) => info::run(&arguments),
    }));
    match done.unwrap_or_else(|panic| Err(Error::Internal(panic_text(&*panic)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(if matches!(error, Error::Interrupted) { 130 } else { 1 })
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a reason").to_owned()
}

/// One line on stderr, whatever line breaks a foreign message brings along.
fn report(error: &Error) {
    let sentence = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    note(&format!("coronet: {sentence}"));
}

/// A line on stderr. That nobody reads it any more is no reason to stop.
fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
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
