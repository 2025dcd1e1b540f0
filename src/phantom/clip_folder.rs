//! A clip of the phantom as a folder of a data set: frames, labels, a video to look at, and the truth in JSON.

use super::{Phantom, PhantomFrame};
use crate::error::{Error, Result};
use crate::media::output::{frame_digits, mask_png, picture_png};
use crate::staging::{Staging, has_schema};
use rayon::prelude::*;
use std::path::Path;

/// How to write clips.
#[derive(Debug, Clone, Copy)]
pub struct ClipOptions {
    /// Whether an existing clip of that name is replaced once the new one is complete.
    pub overwrite: bool,
    /// Whether `clip.mp4` is written, too.
    pub video: bool,
}

/// The truth's file in a clip's folder; a folder that holds one is a clip of the phantom's.
const TRUTH: &str = "phantom.json";
/// Its `schema`.
const SCHEMA: &str = "coronet/phantom";

/// Draws `phantom` into `folder`: `frames/NNNN.png`, `labels/NNNN.png`, `clip.mp4` and `phantom.json`.
///
/// Frames are drawn by all threads of the current rayon pool. After each, `frame_done` is called; it returns whether
/// to go on. Everything is written into a hidden folder beside the final name and renamed when complete.
///
/// # Errors
/// [`Error::Request`] when the folder exists (and may not be replaced, or is no clip of the phantom's),
/// [`Error::Io`] when it cannot be written, [`Error::Interrupted`] when `frame_done` said so.
pub fn write_clip(
    phantom: &Phantom,
    folder: &Path,
    options: ClipOptions,
    frame_done: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    check_clip_place(folder, options.overwrite)?;
    let (parent, name) = match (folder.parent(), folder.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(Error::Request(format!("{} cannot be the name of a clip", folder.display()))),
    };
    let staging = Staging::create(parent)?;
    // What a run that was killed had moved aside may be there again.
    check_clip_place(folder, options.overwrite)?;
    let truths = write_frames(phantom, &staging, name, options.video, frame_done)
        .map_err(|error| staging.with_final_path(error))?;
    let truth = serde_json::to_vec_pretty(&truth(phantom, &truths))
        .map_err(|e| Error::Internal(format!("the truth is not JSON: {e}")))?;
    staging.write(&format!("{name}/{TRUTH}"), &truth)?;
    staging.commit(&[name])
}

/// Refuses to take the place of anything but a clip of the phantom's that may be replaced.
///
/// # Errors
/// [`Error::Request`] saying what stands there.
pub fn check_clip_place(folder: &Path, overwrite: bool) -> Result<()> {
    if folder.symlink_metadata().is_err() {
        return Ok(());
    }
    let place = folder.display();
    if has_schema(&folder.join(TRUTH), SCHEMA) {
        if overwrite {
            return Ok(());
        }
        return Err(Error::Request(format!("{place} exists; choose another place, or replace it with --overwrite")));
    }
    Err(Error::Request(format!("{place} exists and is no clip of the phantom; choose another place")))
}

fn write_frames(
    phantom: &Phantom,
    staging: &Staging,
    clip: &str,
    video: bool,
    frame_done: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<serde_json::Value>> {
    let settings = phantom.settings();
    let digits = frame_digits(settings.frames);
    let mut video = Video::create(video, &staging.stage(&format!("{clip}/clip.mp4"))?.path, phantom)?;
    let mut truths = Vec::with_capacity(settings.frames);
    // A video takes its frames in turn: they are drawn in groups, one frame for each thread.
    let group = rayon::current_num_threads().max(1);
    for first in (0..settings.frames).step_by(group) {
        let drawn: Vec<PhantomFrame> = (first..(first + group).min(settings.frames))
            .into_par_iter()
            .map(|index| {
                let drawn = phantom.frame(index)?;
                let name = format!("{index:0digits$}.png");
                staging.write(&format!("{clip}/frames/{name}"), &picture_png(&drawn.frame)?)?;
                staging.write(&format!("{clip}/labels/{name}"), &mask_png(&drawn.mask)?)?;
                if frame_done() { Ok(drawn) } else { Err(Error::Interrupted) }
            })
            .collect::<Result<_>>()?;
        for drawn in drawn {
            truths.push(serde_json::json!({
                "moment": drawn.moment,
                "vessel_pixels": drawn.mask.vessel_pixels(),
                "stenoses_xy": drawn.stenoses,
            }));
            video.write(drawn)?;
        }
    }
    video.finish()?;
    Ok(truths)
}

fn truth(phantom: &Phantom, frames: &[serde_json::Value]) -> serde_json::Value {
    serde_json::json!({
        "schema": SCHEMA,
        "schema_version": 1,
        "note": "synthetic; no patient was involved",
        "settings": phantom.settings(),
        "mask_holds_agent_from": super::VISIBLE_CONCENTRATION,
        "r_waves_seconds": phantom.r_waves().collect::<Vec<f64>>(),
        "vessels": phantom.vessels(),
        "stenoses": phantom.stenoses(),
        "frames": frames,
    })
}

/// The clip as a video, where it is asked for and this build can write one.
struct Video {
    #[cfg(feature = "video")]
    writer: Option<crate::media::VideoWriter>,
}

#[cfg(feature = "video")]
impl Video {
    fn create(wanted: bool, path: &Path, phantom: &Phantom) -> Result<Video> {
        let settings = phantom.settings();
        let frame_time = std::time::Duration::from_secs_f64(1.0 / settings.frames_per_second);
        let create = || crate::media::VideoWriter::create(path, settings.size, Some(frame_time));
        Ok(Video { writer: wanted.then(create).transpose()? })
    }

    fn write(&mut self, drawn: PhantomFrame) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), |writer| writer.write(&drawn.frame.into_rgb()))
    }

    fn finish(self) -> Result<()> {
        self.writer.map_or(Ok(()), crate::media::VideoWriter::finish)
    }
}

#[cfg(not(feature = "video"))]
impl Video {
    fn create(_: bool, _: &Path, _: &Phantom) -> Result<Video> {
        Ok(Video {})
    }

    fn write(&mut self, _: PhantomFrame) -> Result<()> {
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}
