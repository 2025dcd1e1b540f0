//! `coronet dataset`: folders of clips with labels, made from clips of any kind and checked.

mod check;
mod extract;

use clap::{Args, Subcommand};
use coronet::Result;

/// Make data sets from clips, and check them: frames and labels as folders of images
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(check::Arguments),
    Extract(extract::Arguments),
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.verb {
        Verb::Check(arguments) => check::run(arguments),
        Verb::Extract(arguments) => extract::run(arguments),
    }
}
