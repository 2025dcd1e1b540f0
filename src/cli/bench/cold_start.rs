//! From the start of a process to its first mask: such processes are started, one after the other, and timed.

use super::Arguments;
use coronet::bench::peak_resident_bytes;
use coronet::device::Precision;
use coronet::weights::Weights;
use coronet::{Error, Result};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What the processes have shown.
#[derive(Debug, Default)]
pub struct ColdStarts {
    pub times: Vec<Duration>,
    /// Of the last one.
    pub memory: Memory,
}

/// What memory a process has taken, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Memory {
    /// The host's, at most.
    pub resident: Option<u64>,
    /// The device's own.
    pub of_device: Option<u64>,
}

/// A line that says that the mask is there: vessel pixels, [`Memory`], and the device.
const FIRST_MASK: &str = "first mask:";
const DEVICE: &str = ", on ";

impl Memory {
    /// As such a line ends: `resident bytes 1024, device bytes -`.
    fn words(self) -> String {
        let word = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        format!("resident bytes {}, device bytes {}", word(self.resident), word(self.of_device))
    }

    fn of_words(line: &str) -> Memory {
        let bytes = |of: &str| line.split_once(of)?.1.split([' ', ',']).next()?.parse().ok();
        Memory { resident: bytes("resident bytes "), of_device: bytes("device bytes ") }
    }
}

/// Starts the processes, which are to find this device; weights that lie in no file are written to one for them.
pub fn measure(arguments: &Arguments, precision: Precision, device: &str, weights: &Weights) -> Result<ColdStarts> {
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
        // Ctrl-C ends such a process, too, which is then no failure.
        let as_stopped = |error| if super::interrupted() { Error::Interrupted } else { error };
        let (time, memory) = started(arguments, precision, device, &path).map_err(as_stopped)?;
        starts.times.push(time);
        starts.memory = memory;
    }
    Ok(starts)
}

fn started(arguments: &Arguments, precision: Precision, device: &str, weights: &Path) -> Result<(Duration, Memory)> {
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
    if was_interrupted(output.status) {
        return Err(Error::Interrupted);
    }
    let Some(said) = line.trim().strip_prefix(FIRST_MASK).filter(|_| output.status.success()) else {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&format!("ended with {}: {}", output.status, said.trim())));
    };
    match said.split_once(DEVICE) {
        Some((memory, found)) if found == device => Ok((time, Memory::of_words(memory))),
        _ => Err(failed(&format!("said `{said}`, not that it ran on {device}"))),
    }
}

/// Whether Ctrl-C has ended the process, which may be seen before this one has taken notice of it.
#[cfg(unix)]
fn was_interrupted(status: ExitStatus) -> bool {
    const SIGINT: i32 = 2;
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(SIGINT)
}

/// Elsewhere that is left to the one that waits.
#[cfg(not(unix))]
fn was_interrupted(_: ExitStatus) -> bool {
    false
}

/// What such a process does, and says.
pub fn first_mask(arguments: &Arguments) -> Result<String> {
    let weights = arguments.weights()?;
    let (device, _) = arguments.device.open_in(arguments.precision, true)?;
    let mut bench = arguments.bench(&weights, &*device)?;
    // As `coronet segment` does.
    drop(weights);
    let (_, mask) = bench.frame()?;
    let memory = Memory { resident: peak_resident_bytes(), of_device: device.memory_taken() };
    let (pixels, device) = (mask.vessel_pixels(), device.describe());
    Ok(format!("{FIRST_MASK} {pixels} vessel pixels, {}{DEVICE}{device}", memory.words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_line_says() {
        for (resident, of_device) in [(Some(12), Some(345)), (Some(7), None), (None, Some(8)), (None, None)] {
            let memory = Memory { resident, of_device };
            assert_eq!(Memory::of_words(&format!("{FIRST_MASK} 3 vessel pixels, {}", memory.words())), memory);
        }
    }
}
