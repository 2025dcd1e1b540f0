//! From the start of a process to its first mask: such processes are started, one after the other, and timed.

use super::Arguments;
use coronet::bench::peak_resident_bytes;
use coronet::device::Precision;
use coronet::weights::Weights;
use coronet::{Error, Result};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the processes have shown.
#[derive(Debug, Default)]
pub struct ColdStarts {
    pub times: Vec<Duration>,
    /// Of the last one.
    pub peak_resident_bytes: Option<u64>,
}

/// A line that says that the mask is there: vessel pixels, and the most memory the process has had.
const FIRST_MASK: &str = "first mask:";

/// Starts the processes; weights that lie in no file are written to one for them.
pub fn measure(arguments: &Arguments, precision: Precision, weights: &Weights) -> Result<ColdStarts> {
    let mut starts = ColdStarts::default();
    if arguments.cold_starts == 0 {
        return Ok(starts);
    }
    let folder = tempfile::tempdir().map_err(Error::io("make a folder in", &std::env::temp_dir()))?;
    let path = match &arguments.weights {
        Some(path) => path.clone(),
        None => {
            let path = folder.path().join("weights.safetensors");
            weights.save(&path)?;
            path
        }
    };
    for _ in 0..arguments.cold_starts {
        if super::interrupted() {
            return Err(Error::Interrupted);
        }
        let (time, peak) = started(arguments, precision, &path)?;
        starts.times.push(time);
        starts.peak_resident_bytes = peak;
    }
    Ok(starts)
}

fn started(arguments: &Arguments, precision: Precision, weights: &Path) -> Result<(Duration, Option<u64>)> {
    let failed = |problem: &str| Error::Device(format!("a process that was to segment one frame {problem}"));
    let program = std::env::current_exe().map_err(|error| failed(&format!("has no program: {error}")))?;
    let frame = arguments.frame();
    let mut command = Command::new(program);
    command.args(["bench", "--first-mask", "--quiet", "--weights"]).arg(weights);
    command.args(["--size", &arguments.size.to_string(), "--frame", &frame.to_string()]);
    command.args(["--precision", precision.name()]).args(arguments.device.words());
    let begun = Instant::now();
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&format!("could not be started: {error}")))?;
    let mut line = String::new();
    if let Some(out) = process.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(|error| failed(&format!("was not understood: {error}")))?;
    }
    let time = begun.elapsed();
    let output = process.wait_with_output().map_err(|error| failed(&format!("was lost: {error}")))?;
    let Some(said) = line.trim().strip_prefix(FIRST_MASK).filter(|_| output.status.success()) else {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&format!("ended with {}: {}", output.status, said.trim())));
    };
    Ok((time, said.split_whitespace().last().and_then(|bytes| bytes.parse().ok())))
}

/// What such a process does, and says.
pub fn first_mask(arguments: &Arguments) -> Result<String> {
    let weights = arguments.weights()?;
    let (device, _) = arguments.device.open_in(arguments.precision, true)?;
    let mut bench = arguments.bench(&weights, &*device)?;
    // As `coronet segment` does.
    drop(weights);
    let (_, mask) = bench.frame()?;
    let peak = peak_resident_bytes().map_or("-".to_owned(), |bytes| bytes.to_string());
    Ok(format!("{FIRST_MASK} {} vessel pixels, resident bytes {peak}", mask.vessel_pixels()))
}
