//! `coronet import`: another program's weights in, a weights file of this network out.

use super::print;
use super::progress::{interrupted, listen_for_ctrl_c};
use clap::{Args, ValueHint};
use coronet::model::Stem;
use coronet::new_file::NewFile;
use coronet::weights::import::{Import, ImportOptions, import};
use coronet::{Error, Result};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Make a weights file from another program's: PyTorch checkpoints and safetensors
///
/// The file holds a torchvision ResNet-34 (it becomes the encoders), a CE-Net, or a network under Coronet's own names.
/// Its content says what it is, whatever it is called: safetensors, or what torch.save wrote from a state_dict(), in
/// the zip format or the older one. Nothing in it is run: a file that asks Python to call anything but what tensors
/// need is refused. What the file does not hold is random.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The file to import: .safetensors, .pth, .pt
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// The weights file to write, safetensors
    #[arg(long, value_name = "W", value_hint = ValueHint::FilePath)]
    out: PathBuf,

    /// How the input is reduced before the first encoder: half or quarter; by default what the file implies, else half
    #[arg(long)]
    stem: Option<Stem>,

    /// N, the frames read on each side of the middle one: 0 to 3; by default the file's, else 1
    #[arg(long)]
    n: Option<usize>,

    /// Channels of a frame: 1 or 3; by default the file's, else 1
    #[arg(long)]
    in_channels: Option<usize>,

    /// Fold a first layer of three channels to one: for grey frames the sum of its filters computes the same
    #[arg(long)]
    luminance: bool,

    /// What is drawn at random for layers that the file does not hold
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,

    /// Replace the weights file if there is one already
    #[arg(long)]
    overwrite: bool,

    /// Print what was done as JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,

    /// No closing lines
    #[arg(long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    check_place(&arguments.out, arguments.overwrite)?;
    let &Arguments { stem, n, in_channels, luminance, seed, .. } = arguments;
    let options = ImportOptions { stem, neighbours: n, in_channels, luminance, seed };
    let file = NewFile::create(&arguments.out)?;
    let import = import(&arguments.file, &options)?;
    if interrupted() {
        return Err(Error::Interrupted);
    }
    import.weights.save_as(file)?;

    if arguments.json {
        print(&mut io::stdout().lock(), &json(&import, arguments)?)
    } else if arguments.quiet {
        Ok(())
    } else {
        print(&mut io::stdout().lock(), &closing_lines(&import, arguments))
    }
}

/// What is cheap to find wrong comes first.
fn check_place(out: &Path, overwrite: bool) -> Result<()> {
    let shown = out.display();
    if out.is_dir() {
        return Err(Error::Request(format!("{shown} is a folder; give the weights file a name in it")));
    }
    if out.symlink_metadata().is_ok() && !overwrite {
        return Err(Error::Request(format!(
            "{shown} is there already; choose another name, or replace it with --overwrite"
        )));
    }
    Ok(())
}

/// What was taken, what was not and what is random, for people.
fn closing_lines(import: &Import, arguments: &Arguments) -> String {
    let Import { weights, source, held, taken, left_out, seeded } = import;
    let mut lines = format!("{}, from {source}\n{taken} of the file's {held} tensors taken", weights.config());
    // Writing to a String cannot fail.
    for group in left_out {
        let _ = write!(lines, "\n{} left out: {}", group.tensors.len(), group.reason);
    }
    if !seeded.is_empty() {
        let _ = write!(lines, "\nrandom, with seed {}: {}", arguments.seed, seeded.join(", "));
    }
    let _ = write!(lines, "\nweights in {}", arguments.out.display());
    lines
}

/// The same for programs.
fn json(import: &Import, arguments: &Arguments) -> Result<String> {
    let Import { weights, source, held, taken, left_out, seeded } = import;
    let done = serde_json::json!({
        "source": source,
        "network": weights.config(),
        "tensors_in_file": held,
        "tensors_taken": taken,
        "left_out": left_out,
        "random": { "seed": arguments.seed, "layers": seeded },
        // At a path that is no UTF-8 the macro panics.
        "weights": arguments.out.display().to_string(),
    });
    serde_json::to_string_pretty(&done).map_err(|e| Error::Internal(format!("the summary is not JSON: {e}")))
}
