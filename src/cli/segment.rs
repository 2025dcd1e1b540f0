//! `coronet segment`: a clip in, masks and pictures out.

mod stream;

use super::device::DeviceOptions;
use super::frame_size::FrameSize;
use super::progress::{Progress, listen_for_ctrl_c};
use super::{note, print};
use clap::{Args, ValueHint};
use coronet::device::{Precision, PrecisionChoice};
use coronet::media::{ClipReader, FrameRange, LabelReader, Size};
use coronet::post::{MinimumArea, PostProcessing, Threshold};
use coronet::result_folder::ResultFolder;
use coronet::segment::{
    BusyShares, EngineNetwork, LabelAgreement, Labels, OverlayVideo, RESULTS, ResultsOptions, SegmentOptions, Summary,
    WindowNetwork, segment_into,
};
use coronet::weights::{EMBEDDED_ORIGIN, Weights};
use coronet::{Error, Result};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Segment a clip: a mask for every frame, an overlay video, a contact sheet and a summary
#[derive(Debug, Args)]
pub struct Arguments {
    /// The clip: DICOM XA, a video, a folder of images or one image; `-` for frames from standard input, y4m or --raw,
    /// whose masks go to standard output in the same form, each N frames later
    #[arg(value_hint = ValueHint::AnyPath)]
    input: PathBuf,

    /// The network's weights, safetensors; without it the network that Coronet carries along
    #[arg(long, value_name = "W", value_hint = ValueHint::FilePath)]
    weights: Option<PathBuf>,

    /// Folder for the results; made where it is missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,

    /// Standard input is raw: 8-bit grey frames of this width and height, one after the other
    #[arg(long, value_name = "WxH")]
    raw: Option<FrameSize>,

    /// Give each mask of standard input's frames at once, the frame itself standing in for its N later neighbours
    #[arg(long)]
    immediate: bool,

    /// Segment only frames A up to, not including, B, counted from 0; their neighbours come from the whole clip
    #[arg(long, value_name = "A..B", allow_hyphen_values = true)]
    frames: Option<FrameRange>,

    /// Probability from which on a pixel is vessel, 0 to 1
    #[arg(long, value_name = "T", default_value = "0.5", allow_negative_numbers = true)]
    threshold: Threshold,

    /// Drop connected components smaller than this: a share of the image (0.0005, 0.05%) or pixels (130, 130px)
    #[arg(long, value_name = "AREA", default_value = "0.05%", allow_negative_numbers = true)]
    min_area: MinimumArea,

    #[command(flatten)]
    device: DeviceOptions,

    /// What convolutions, but for the temporal one, multiply: float32 (or fp32), or on the tensor cores of a GPU tf32,
    /// float16 (fp16; what may be outside its range in tf32) or bfloat16 (bf16), rounded from float32 and summed in it; on
    /// a CPU with AMX or AVX-512 BF16 bfloat16, but for convolutions of few channels; auto: what is likely to be quickest
    #[arg(long, value_name = "P", default_value_t = PrecisionChoice::Only(Precision::Float32))]
    precision: PrecisionChoice,

    /// Side of the square the network sees, in pixels
    #[arg(long, value_name = "S", default_value = "448")]
    size: NonZeroUsize,

    /// True masks to compare with, one for each frame in the clip's order: a folder of images, vessel from 128 on
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    labels: Option<PathBuf>,

    /// Write the vessel probability of every frame, too, as 16-bit PNG
    #[arg(long)]
    probability: bool,

    /// Replace results that the folder already holds, once the new ones are complete
    #[arg(long)]
    overwrite: bool,

    /// Print the summary as JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,

    /// No progress and no closing lines
    #[arg(long)]
    quiet: bool,
}

impl Arguments {
    fn reads_a_stream(&self) -> bool {
        self.input.as_os_str() == "-"
    }

    /// What is wrong with the options together, as a usage error.
    pub fn problem(&self) -> Option<&'static str> {
        let of_clips = self.out.is_some() || self.frames.is_some() || self.labels.is_some();
        let of_clips = of_clips || self.probability || self.overwrite || self.json;
        let of_streams = self.raw.is_some() || self.immediate;
        match self.reads_a_stream() {
            true if of_clips => Some(
                "masks of frames from standard input go to standard output: --out and what it holds, --frames and --labels are for clips",
            ),
            false if of_streams => {
                Some("--raw and --immediate are for frames from standard input, `coronet segment -`")
            }
            false if self.out.is_none() => Some("the following required arguments were not provided: --out <DIR>"),
            _ => None,
        }
    }

    /// The folder for the results; [`Arguments::problem`] has seen to it that there is one.
    fn folder(&self) -> &Path {
        self.out.as_deref().unwrap_or(Path::new("."))
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.reads_a_stream() {
        return stream::run(arguments);
    }
    run_with(arguments, &coronet::media::open, &listen_for_ctrl_c, open_network, &mut io::stdout().lock())
}

/// Opens the network that the arguments name, or the embedded one.
fn open_network(arguments: &Arguments) -> Result<Box<dyn WindowNetwork>> {
    let path = arguments.weights.as_deref();
    let weights = path.map_or_else(Weights::embedded, Weights::load)?;
    let side = arguments.size.get();
    // What cannot work is found before threads are started and memory is taken.
    weights.config().check_size(side, side)?;
    if path.is_none() && !arguments.quiet {
        note(&format!("coronet: no --weights: using the {EMBEDDED_ORIGIN}"));
    }
    let (device, _) = arguments.device.open_in(arguments.precision, arguments.quiet)?;
    let network = EngineNetwork::load(&weights, &*device, Size { width: side, height: side })?;
    Ok(Box::new(network.with_origin(path.map_or(EMBEDDED_ORIGIN.into(), Path::to_string_lossy))))
}

type OpenClip<'a> = &'a dyn Fn(&Path) -> Result<Box<dyn ClipReader>>;
type OpenNetwork = fn(&Arguments) -> Result<Box<dyn WindowNetwork>>;

fn run_with(
    arguments: &Arguments,
    open_clip: OpenClip<'_>,
    listen: &dyn Fn(),
    open_network: OpenNetwork,
    out: &mut dyn Write,
) -> Result<()> {
    let Arguments { input, frames, .. } = arguments;
    // What is cheap to find wrong comes first.
    let mut reader = open_clip(input)?;
    // Not before: to count its frames a video is decoded, which nobody asks to stop, and there is nothing to clear away yet.
    listen();
    if let Some(frames) = frames {
        frames.within(reader.info().frames)?;
    }
    let labels = arguments.labels.as_ref().map(|path| LabelReader::open(path, &*reader)).transpose()?;
    check_apart("clip's", input, arguments.folder())?;
    if let Some(labels) = &arguments.labels {
        check_apart("labels'", labels, arguments.folder())?;
    }
    let folder = ResultFolder::create(arguments.folder(), &RESULTS, arguments.overwrite)?;
    let mut network = open_network(arguments)?;

    let post = PostProcessing { threshold: arguments.threshold, minimum_area: arguments.min_area };
    let options = SegmentOptions { frames: *frames, post, probability: arguments.probability };
    let files =
        ResultsOptions { probability: arguments.probability, video: &OverlayVideo, labels: labels.map(Labels::new) };
    let progress = Progress::new("frames", arguments.quiet);
    let summary = segment_into(folder, input, &mut *reader, &mut *network, &options, files, &progress)?;
    drop(progress);

    if arguments.json {
        let text = serde_json::to_string_pretty(&summary);
        print(out, &text.map_err(|e| Error::Internal(format!("the summary is not JSON: {e}")))?)
    } else if arguments.quiet {
        Ok(())
    } else {
        print(out, &closing_lines(&summary, arguments.folder()))
    }
}

/// Refuses a folder that is read from, the `whose` own: the contact sheet would be one of its frames from then on.
fn check_apart(whose: &str, input: &Path, out: &Path) -> Result<()> {
    let same = || Some(input.canonicalize().ok()? == out.canonicalize().ok()?);
    if input.is_dir() && same() == Some(true) {
        let place = out.display();
        return Err(Error::Request(format!("{place} is the {whose} own folder; choose another one for the results")));
    }
    Ok(())
}

/// What was made, where it lies and how fast it went, for people.
fn closing_lines(summary: &Summary, folder: &Path) -> String {
    let Summary { input, outputs, .. } = summary;
    let at = |name: &str| folder.join(name).display().to_string();
    let mut lines =
        format!("{} masks of {}x{} in {}", summary.areas.len(), input.width, input.height, at(outputs.masks));
    // Writing to a String cannot fail.
    if let Some(probability) = outputs.probability {
        let _ = write!(lines, "\nprobabilities in {}", at(probability));
    }
    let _ = match outputs.overlay {
        Some(overlay) => write!(lines, "\noverlay video {} ({})", at(overlay), outputs.overlay_note),
        None => write!(lines, "\nno overlay video: {}", outputs.overlay_note),
    };
    let _ = write!(lines, "\ncontact sheet {}", at(outputs.contact_sheet));
    let _ = write!(lines, "\n{:.1} frames/s over {:.1} s", summary.frames_per_second, summary.wall_seconds);
    if let Some(network) = summary.network_ms {
        let _ = write!(lines, "; network step {:.1} ms (median), {:.1} ms (p99)", network.median, network.p99);
    }
    let BusyShares { decoding, network, finishing } = summary.busy;
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let _ = write!(
        lines,
        "\nbusy of the time: decoding {}, network {}, writing {}; {} bounds it",
        percent(decoding),
        percent(network),
        percent(finishing),
        summary.busy.bound()
    );
    if let Some(LabelAgreement { path, agreement, .. }) = &summary.labels {
        let (mean, pooled) = (agreement.mean.dice, agreement.pooled.dice);
        let _ = write!(lines, "\nDice {pooled:.3} over all pixels, {mean:.3} as mean of the frames, against {path}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use coronet::media::{ClipInfo, ClipKind, Colour, Frame, Size};
    use std::cell::RefCell;

    const SIZE: Size = Size { width: 8, height: 4 };

    struct Clip(ClipInfo, usize);

    impl ClipReader for Clip {
        fn info(&self) -> &ClipInfo {
            &self.0
        }

        fn next_frame(&mut self) -> Result<Option<Frame>> {
            if self.1 == self.0.frames {
                return Ok(None);
            }
            self.1 += 1;
            Frame::new(SIZE, Colour::Grey, vec![9; SIZE.area()]).map(Some)
        }
    }

    fn five_frames(_: &Path) -> Result<Box<dyn ClipReader>> {
        let description = String::new();
        let info = ClipInfo { kind: ClipKind::Dicom, size: SIZE, frames: 5, frame_time: None, description };
        Ok(Box::new(Clip(info, 0)))
    }

    struct AllVessel(usize);

    impl WindowNetwork for AllVessel {
        fn neighbours(&self) -> usize {
            1
        }

        fn colour(&self) -> Colour {
            Colour::Grey
        }

        fn input_size(&self) -> Size {
            Size { width: self.0, height: self.0 }
        }

        fn run(&mut self, _: &[&[f32]], probability: &mut [f32]) -> Result<()> {
            probability.fill(0.75);
            Ok(())
        }

        fn describe(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
    }

    fn all_vessel(arguments: &Arguments) -> Result<Box<dyn WindowNetwork>> {
        Ok(Box::new(AllVessel(arguments.size.get())))
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// What the verb prints on stdout, and its result.
    fn printed(out: &Path, extra: &[&str]) -> (String, Result<()>) {
        let start = ["segment", "clip", "--weights", "w", "--size", "32", "--out", out.to_str().unwrap()];
        let Line { arguments } = Line::parse_from(start.iter().chain(extra));
        let mut text = Vec::new();
        let done = run_with(&arguments, &five_frames, &|| (), all_vessel, &mut text);
        (String::from_utf8(text).unwrap(), done)
    }

    #[test]
    fn the_closing_lines_say_what_lies_where() {
        let out = tempfile::tempdir().unwrap();
        let (text, done) = printed(out.path(), &["--probability"]);
        done.unwrap();
        let folder = out.path().display();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("5 masks of 8x4 in {folder}/masks"));
        assert_eq!(lines[1], format!("probabilities in {folder}/probability"));
        assert!(lines[2].contains("overlay video"), "{text}");
        assert_eq!(lines[3], format!("contact sheet {folder}/contact_sheet.png"));
        assert!(lines[4].contains(" frames/s over ") && lines[4].contains("; network step "), "{text}");
        let said = |text| lines[5].contains(text);
        assert!(said("busy of the time: decoding ") && said(" %, network ") && said(" bounds it"), "{text}");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn json_is_all_there_is_on_stdout_and_quiet_leaves_nothing() {
        let out = tempfile::tempdir().unwrap();
        let (text, done) = printed(out.path(), &["--json", "--frames", "1..3"]);
        done.unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(summary["frames"], serde_json::json!({"start": 1, "end": 3}));
        let written = std::fs::read_to_string(out.path().join("summary.json")).unwrap();
        assert_eq!(text.trim_end(), written, "the file says the same");

        let (text, done) = printed(out.path(), &["--quiet", "--overwrite"]);
        done.unwrap();
        assert_eq!(text, "");
    }

    #[test]
    fn ctrl_c_just_ends_the_process_until_there_is_something_to_clear_away() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let start = ["segment", "clip", "--weights", "w", "--size", "32", "--quiet", "--out", out.to_str().unwrap()];
        let Line { arguments } = Line::parse_from(start);
        let done = RefCell::new(Vec::new());
        let open = |path: &Path| {
            done.borrow_mut().push("opens the clip");
            five_frames(path)
        };
        let listen = || {
            assert!(!out.exists(), "nothing is written before");
            done.borrow_mut().push("listens");
        };
        run_with(&arguments, &open, &listen, all_vessel, &mut Vec::new()).unwrap();
        assert_eq!(*done.borrow(), ["opens the clip", "listens"]);
        assert!(out.exists());
    }

    #[test]
    fn frames_beyond_the_clip_and_a_taken_folder_leave_everything_alone() {
        let out = tempfile::tempdir().unwrap();
        let (text, done) = printed(&out.path().join("new"), &["--frames", "3..6"]);
        let problem = done.unwrap_err().to_string();
        assert_eq!(problem, "frames 3..6 reach beyond the clip; the clip has 5 frames, 0..5");
        assert_eq!(text, "");
        assert!(!out.path().join("new").exists());

        printed(out.path(), &["--quiet"]).1.unwrap();
        let (text, done) = printed(out.path(), &[]);
        assert!(done.unwrap_err().to_string().contains("already holds results"));
        assert_eq!(text, "");
    }
}
