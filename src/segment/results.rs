//! A run with files: the pipeline's masks into a folder as PNGs, an overlay video, a contact sheet and a summary.

use super::{
    LabelAgreement, Labels, MaskSink, Observer, OutputSummary, SegmentOptions, SegmentedFrame, Summary, WindowNetwork,
    segment_clip,
};
use crate::error::{Error, Result};
use crate::media::output::{ContactSheet, SideBySide, frame_digits, mask_png, picture_png, probability_png};
use crate::media::{ClipInfo, ClipReader, ClipSummary, Frame, Size};
use crate::result_folder::{ResultFolder, ResultKind};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// What [`segment_into`] may leave.
pub const RESULTS: ResultKind = ResultKind {
    names: &["masks", "probability", "overlay.mp4", "contact_sheet.png", "summary.json"],
    summary: "summary.json",
    schema: "coronet/segment",
};

/// Takes the pictures of an overlay video.
pub trait VideoSink: Send {
    /// Appends one picture.
    ///
    /// # Errors
    /// Whatever the encoder or the disk report.
    fn write(&mut self, picture: &Frame) -> Result<()>;

    /// Writes what the encoder still holds, and the end of the file.
    ///
    /// # Errors
    /// Whatever the encoder or the disk report.
    fn finish(self: Box<Self>) -> Result<()>;

    /// The codec in use.
    fn codec(&self) -> String;
}

/// Opens an overlay video of pictures of one size.
pub trait OpenVideo {
    /// A video at `path`, or the reason why this machine or build makes none.
    ///
    /// # Errors
    /// When it should work but does not; that stops the run.
    fn open(&self, path: &Path, size: Size, frame_time: Option<Duration>)
    -> Result<Result<Box<dyn VideoSink>, String>>;
}

/// Makes no overlay video, and says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoVideo(pub String);

impl OpenVideo for NoVideo {
    fn open(&self, _: &Path, _: Size, _: Option<Duration>) -> Result<Result<Box<dyn VideoSink>, String>> {
        Ok(Err(self.0.clone()))
    }
}

/// Which files a run leaves beyond the masks, and what the masks are compared with.
pub struct ResultsOptions<'a> {
    /// 16-bit probabilities as well.
    pub probability: bool,
    /// Who makes the overlay video.
    pub video: &'a dyn OpenVideo,
    /// The true masks, if they are known.
    pub labels: Option<Labels>,
}

/// Segments a clip into `folder`. Nothing is under its final name before everything is there.
///
/// `input` is the clip's path, for the summary.
///
/// # Errors
/// As [`segment_clip`], and [`Error::Io`] with a final name when a file cannot be written.
pub fn segment_into(
    folder: ResultFolder,
    input: &Path,
    reader: &mut dyn ClipReader,
    network: &mut dyn WindowNetwork,
    options: &SegmentOptions,
    files: ResultsOptions<'_>,
    observer: &dyn Observer,
) -> Result<Summary> {
    let begun = Instant::now();
    let info = reader.info().clone();
    let shown = options.frames.map_or(Ok(0..info.frames), |range| range.within(info.frames))?;
    let options = &SegmentOptions { probability: options.probability || files.probability, ..*options };
    let mut results = Results::new(&folder, &info, &shown, files)?;
    let run = segment_clip(reader, network, options, &mut results, observer);
    let finished = run.and_then(|mut run| {
        let (outputs, labels) = results.finish()?;
        run.wall = begun.elapsed();
        Ok(Summary {
            labels,
            ..Summary::new(ClipSummary::new(input, &info), network.describe(), options, outputs, &run)
        })
    });
    let summary = finished.map_err(|error| folder.with_final_path(error))?;
    let text =
        serde_json::to_vec_pretty(&summary).map_err(|e| Error::Internal(format!("the summary is not JSON: {e}")))?;
    folder.write(RESULTS.summary, &text)?;
    if observer.interrupted() {
        return Err(Error::Interrupted);
    }
    folder.commit()?;
    Ok(summary)
}

/// Writes masks and pictures as they come.
struct Results<'a> {
    folder: &'a ResultFolder,
    digits: usize,
    probability: bool,
    side_by_side: SideBySide,
    sheet: ContactSheet,
    video: Result<Box<dyn VideoSink>, String>,
    labels: Option<Labels>,
}

impl<'a> Results<'a> {
    fn new(
        folder: &'a ResultFolder,
        clip: &ClipInfo,
        shown: &Range<usize>,
        files: ResultsOptions<'_>,
    ) -> Result<Results<'a>> {
        let side_by_side = SideBySide::new(clip.size, clip.frames)?;
        let overlay = folder.stage("overlay.mp4")?.path;
        let video = files.video.open(&overlay, side_by_side.size(), clip.frame_time);
        Ok(Results {
            folder,
            digits: frame_digits(clip.frames),
            probability: files.probability,
            side_by_side,
            sheet: ContactSheet::new(clip.size, clip.frames, shown)?,
            video: video.map_err(|error| folder.with_final_path(error))?,
            labels: files.labels,
        })
    }

    /// Closes the video and writes the contact sheet.
    fn finish(self) -> Result<(OutputSummary, Option<LabelAgreement>)> {
        let (overlay, overlay_note) = match self.video {
            Ok(video) => {
                let codec = video.codec();
                video.finish()?;
                (Some("overlay.mp4"), codec)
            }
            Err(reason) => (None, reason),
        };
        self.folder.write("contact_sheet.png", &picture_png(&self.sheet.finish()?)?)?;
        let outputs = OutputSummary {
            masks: "masks",
            probability: self.probability.then_some("probability"),
            overlay,
            overlay_note,
            contact_sheet: "contact_sheet.png",
        };
        Ok((outputs, self.labels.and_then(Labels::agreement)))
    }
}

impl MaskSink for Results<'_> {
    fn accept(&mut self, segmented: SegmentedFrame) -> Result<()> {
        let SegmentedFrame { index, frame, probability, mask } = segmented;
        let name = |folder: &str| format!("{folder}/{index:0digits$}.png", digits = self.digits);
        self.folder.write(&name("masks"), &mask_png(&mask)?)?;
        if let Some(labels) = &mut self.labels {
            labels.compare(index, &mask)?;
        }
        if let Some(probability) = probability.filter(|_| self.probability) {
            self.folder.write(&name("probability"), &probability_png(&probability)?)?;
        }
        if let Ok(video) = &mut self.video {
            video.write(&self.side_by_side.paint(index, &frame, &mask)?)?;
        }
        self.sheet.offer(index, &frame, &mask)
    }
}
