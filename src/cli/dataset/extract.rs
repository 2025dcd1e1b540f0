//! `coronet dataset extract`: clips of any kind into a data set.

use super::super::progress::{Progress, listen_for_ctrl_c};
use super::super::{count, print};
use clap::{Args, ValueHint};
use coronet::dataset::{ClipName, ClipToExtract, ExtractedClip, extract};
use coronet::media::FrameRange;
use coronet::{Error, Result};
use std::io;
use std::path::PathBuf;

/// Take clips over into a data set, every frame as it was decoded, as PNG
///
/// Each clip becomes a folder in DATA: frames/NNNN.png, labels/NNNN.png where --labels are given, and source.json,
/// which says where they are from. NNNN is the frame's number in the clip, counted from 0. Of several clips all are
/// taken over or none.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Clips: DICOM XA, videos, folders of images or single images
    #[arg(value_name = "CLIP", required = true, value_hint = ValueHint::AnyPath)]
    clips: Vec<PathBuf>,

    /// Folder of the data set; made where it is missing
    #[arg(long, value_name = "DATA", value_hint = ValueHint::DirPath)]
    out: PathBuf,

    /// Labels of the one clip, one for each frame in the clip's order: a folder of images, vessel from 128 on
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    labels: Option<PathBuf>,

    /// What the one clip is called in the data set; by default as its file, without the suffix
    #[arg(long, value_name = "NAME")]
    name: Option<ClipName>,

    /// Only frames A up to, not including, B, counted from 0; they keep their numbers
    #[arg(long, value_name = "A..B", allow_hyphen_values = true)]
    frames: Option<FrameRange>,

    /// Replace clips that this command wrote; never labels by others, nor what it did not write
    #[arg(long)]
    overwrite: bool,

    /// No progress and no closing lines
    #[arg(long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let clips = clips(arguments)?;
    let progress = Progress::new("frames", arguments.quiet);
    let extracted = extract(&clips, &arguments.out, arguments.overwrite, &progress)?;
    drop(progress);
    if arguments.quiet {
        return Ok(());
    }
    let lines: Vec<String> = extracted.iter().map(closing_line).collect();
    print(&mut io::stdout().lock(), &lines.join("\n"))
}

fn clips(arguments: &Arguments) -> Result<Vec<ClipToExtract>> {
    let several = arguments.clips.len();
    for (option, given) in [("--name", arguments.name.is_some()), ("--labels", arguments.labels.is_some())] {
        if given && several > 1 {
            return Err(Error::Request(format!(
                "{option} is for one clip, and there are {several}; extract them one by one"
            )));
        }
    }
    let clip = |path: &PathBuf| {
        let name = arguments.name.clone().map_or_else(|| ClipName::of(path), Ok)?;
        Ok(ClipToExtract { path: path.clone(), name, frames: arguments.frames, labels: arguments.labels.clone() })
    };
    arguments.clips.iter().map(clip).collect()
}

fn closing_line(clip: &ExtractedClip) -> String {
    let ExtractedClip { folder, size, frames, labelled } = clip;
    let labels = if *labelled { " with labels" } else { "" };
    format!("{} of {size}{labels} in {}", count(frames.end - frames.start, "frame"), folder.display())
}
