//! `coronet phantom`: synthetic angiograms with exact masks.

use super::progress::{Progress, interrupted, listen_for_ctrl_c};
use super::{count, print};
use clap::{Args, ValueEnum, ValueHint};
use coronet::media::Size;
use coronet::phantom::{ClipOptions, Phantom, Preset, Settings, System, check_clip_place, write_clip};
use coronet::{Error, Result};
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

/// Draw synthetic coronary angiograms with exact vessel masks, as a data set
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of the data set; each clip becomes a folder in it, with frames, labels, a video and the truth in JSON
    #[arg(value_hint = ValueHint::DirPath)]
    out: PathBuf,

    /// Where settings come from that no option names: `reference` to compare on, `varied` to learn from
    #[arg(long, value_name = "PRESET", default_value_t = Preset::Reference)]
    preset: Preset,

    /// How many clips, each of another patient
    #[arg(long, value_name = "COUNT", default_value = "1")]
    clips: NonZeroUsize,

    /// What is drawn at random: the same seed gives the same bytes
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,

    /// Which arteries are filled; by default the preset's
    #[arg(long, value_enum)]
    system: Option<Side>,

    /// Angles of the C-arm in degrees: towards the patient's left (RAO is negative), towards the head (caudal is negative)
    #[arg(long, value_name = "PRIMARY,SECONDARY", allow_hyphen_values = true)]
    angles: Option<Angles>,

    /// Size of the frames in pixels: a side or WIDTHxHEIGHT; 512 by default
    #[arg(long, value_name = "SIZE")]
    size: Option<FrameSize>,

    /// Frames a clip; 60 by default
    #[arg(long, value_name = "COUNT")]
    frames: Option<usize>,

    /// Frames a second; 15 by default
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    fps: Option<f64>,

    /// Time of the first frame, in seconds since the injection of contrast agent began
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    start: Option<f64>,

    /// Air kerma at the detector, in nGy a frame: less is noisier
    #[arg(long, value_name = "NGY", allow_negative_numbers = true)]
    dose: Option<f64>,

    /// Beats a minute
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    heart_rate: Option<f64>,

    /// Narrowings of the vessels, as far as there is room for them
    #[arg(long, value_name = "COUNT")]
    stenoses: Option<usize>,

    /// Count the catheter as vessel in the masks
    #[arg(long)]
    catheter_in_mask: bool,

    /// Write no video
    #[arg(long)]
    no_video: bool,

    /// Threads; all cores by default
    #[arg(long, value_name = "T")]
    threads: Option<NonZeroUsize>,

    /// Replace clips of the phantom that the folder already holds, each once the new one is complete
    #[arg(long)]
    overwrite: bool,

    /// No progress and no closing lines
    #[arg(long)]
    quiet: bool,
}

/// A coronary system on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    Left,
    Right,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Angles(f64, f64);

impl FromStr for Angles {
    type Err = String;

    fn from_str(text: &str) -> Result<Angles, String> {
        let parsed = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        parsed.map(|(a, b)| Angles(a, b)).ok_or_else(|| format!("angles are two numbers, such as -30,25; not {text}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameSize(Size);

impl FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<FrameSize, String> {
        let (width, height) = text.split_once('x').unwrap_or((text, text));
        match (width.parse(), height.parse()) {
            (Ok(width), Ok(height)) => Ok(FrameSize(Size { width, height })),
            _ => Err(format!("a size is a side or WIDTHxHEIGHT, such as 512 or 640x480; not {text}")),
        }
    }
}

/// Clips of a set: their folders are numbered with four digits.
const MOST_CLIPS: usize = 10_000;

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let begun = Instant::now();
    let clips = arguments.clips.get();
    if clips > MOST_CLIPS {
        return Err(Error::Request(format!("the phantom's number of clips must be 1 to {MOST_CLIPS}, not {clips}")));
    }
    let all: Vec<Settings> = (0..clips).map(|clip| settings(arguments, clip)).collect();
    // What is cheap to find wrong comes first.
    all.iter().try_for_each(Settings::check)?;
    let places: Vec<PathBuf> = (0..clips).map(|clip| arguments.out.join(clip_name(clip))).collect();
    places.iter().try_for_each(|place| check_clip_place(place, arguments.overwrite))?;
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = arguments.threads {
        pool = pool.num_threads(threads.get());
    }
    let pool = pool.build().map_err(|e| Error::Device(format!("cannot start threads: {e}")))?;

    let frames: usize = all.iter().map(|settings| settings.frames).sum();
    let progress = Progress::new("frames", arguments.quiet);
    progress.begin(frames);
    let options = ClipOptions { overwrite: arguments.overwrite, video: !arguments.no_video };
    for (complete, (settings, place)) in all.into_iter().zip(&places).enumerate() {
        let phantom = Phantom::new(settings)?;
        let done = || {
            progress.advance();
            !interrupted()
        };
        pool.install(|| write_clip(&phantom, place, options, &done)).map_err(|error| match error {
            Error::Interrupted if complete > 0 => Error::InterruptedAfter(count(complete, "clip")),
            other => other,
        })?;
    }
    drop(progress);
    if arguments.quiet {
        return Ok(());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let text = format!(
        "{} with {} in {}\n{:.1} frames/s over {seconds:.1} s",
        count(clips, "clip"),
        count(frames, "frame"),
        arguments.out.display(),
        frames as f64 / seconds,
    );
    print(&mut io::stdout().lock(), &text)
}

fn clip_name(clip: usize) -> String {
    format!("phantom-{clip:04}")
}

/// The preset's settings with what the options say.
fn settings(arguments: &Arguments, clip: usize) -> Settings {
    let mut settings = arguments.preset.settings(arguments.seed, clip);
    fn set<T>(target: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *target = value;
        }
    }
    set(
        &mut settings.system,
        arguments.system.map(|side| if side == Side::Left { System::Left } else { System::Right }),
    );
    set(&mut settings.primary_angle, arguments.angles.map(|angles| angles.0));
    set(&mut settings.secondary_angle, arguments.angles.map(|angles| angles.1));
    set(&mut settings.size, arguments.size.map(|size| size.0));
    set(&mut settings.frames, arguments.frames);
    set(&mut settings.frames_per_second, arguments.fps);
    set(&mut settings.start_seconds, arguments.start);
    set(&mut settings.dose_ngy, arguments.dose);
    set(&mut settings.heart_rate, arguments.heart_rate);
    set(&mut settings.stenoses, arguments.stenoses);
    settings.catheter_in_mask |= arguments.catheter_in_mask;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_and_sizes_are_read_or_refused_by_name() {
        assert_eq!("-30, 25.5".parse(), Ok(Angles(-30.0, 25.5)));
        assert!("30".parse::<Angles>().unwrap_err().contains("two numbers"));
        assert_eq!("640x480".parse(), Ok(FrameSize(Size { width: 640, height: 480 })));
        assert_eq!("512".parse(), Ok(FrameSize(Size { width: 512, height: 512 })));
        assert!("512x".parse::<FrameSize>().unwrap_err().contains("WIDTHxHEIGHT"));
    }
}
