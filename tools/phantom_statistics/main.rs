//! Holds the phantom's preset `reference` against real angiograms:
//! `cargo run --release --example phantom_statistics -- [--cine FILE] [--stills FOLDER] [--pictures FOLDER]`.
//!
//! Prints the table of `docs/phantom.md` and fails when a ratio leaves the range that the table states. With
//! `--pictures` it leaves real and synthetic frames, in one picture each, to look at.

mod comparison;
mod measure;

use clap::Parser;
use comparison::Comparison;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare the phantom with real angiograms
#[derive(Parser)]
struct Arguments {
    /// A real coronary cine
    #[arg(long, default_value = "../shared/data/rca_cine.dcm")]
    cine: PathBuf,
    /// A folder of real stills, NN.png with NN_mask.png
    #[arg(long, default_value = "../shared/data/coronary_stills")]
    stills: PathBuf,
    /// Where to leave real.png and phantom.png
    #[arg(long)]
    pictures: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let compared = Comparison::measure(&arguments.cine, &arguments.stills).and_then(|comparison| {
        if let Some(folder) = &arguments.pictures {
            comparison.save_pictures(folder)?;
        }
        Ok(comparison)
    });
    match compared {
        Err(error) => {
            eprintln!("phantom_statistics: {error}");
            ExitCode::FAILURE
        }
        Ok(comparison) => {
            println!("{}", comparison.table());
            if comparison.rows.iter().all(comparison::Row::agrees) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}
