//! What a training run learns from, so that `tools/compare_accuracy.py` can have PyTorch learn from the same.
//!
//! `batch_server --run RUN --weights FILE` reads the folder of a run, writes the run's first weights to `FILE`, and to
//! standard output a line of JSON (`window` and `mask`: the shapes; `recipe`), then for every step of the run, from the
//! first to the last, its learning rate, the window and the mask: float32, little endian, nothing between.

use coronet::dataset::Dataset;
use coronet::train::{Configuration, Settings, for_each_batch};
use std::error::Error;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(clap::Parser)]
struct Arguments {
    #[arg(long)]
    run: PathBuf,
    #[arg(long)]
    weights: PathBuf,
}

/// Threads that read frames ahead.
const WORKERS: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = <Arguments as clap::Parser>::parse();
    let configuration = Configuration::read(&arguments.run)?;
    let Configuration { data, start, settings, .. } = &configuration;
    let dataset = Dataset::open(data)?;
    let split = configuration.split(&arguments.run, &dataset)?;
    let weights = start.weights(settings.seed)?;
    weights.save(&arguments.weights)?;
    let config = weights.config();
    let Settings { recipe, .. } = settings;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let header = serde_json::json!({
        "window": [recipe.batch, config.in_channels(), config.frames(), recipe.side, recipe.side],
        "mask": [recipe.batch, 1, recipe.side, recipe.side],
        "recipe": recipe,
    });
    writeln!(out, "{header}")?;
    for_each_batch(&dataset, &split, config, settings, WORKERS, |rate, batch| {
        let numbers = std::iter::once(&rate).chain(&batch.window).chain(&batch.mask);
        let bytes: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
        out.write_all(&bytes).map_err(coronet::Error::io("write", Path::new("standard output")))
    })?;
    out.flush()?;
    Ok(())
}
