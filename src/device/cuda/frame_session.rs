//! A session as one that makes masks of frames: the network's steps between those of a [`FramePipeline`].

use super::frames::{FramePipeline, NetworkEnds};
use super::{CudaSession, layout};
use crate::device::{FramePath, FramePathTimes, FrameSession, GreySamples, NotFinite, Session};
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::media::{Mask, Size};
use crate::post::{MinimumArea, PostProcessing};
use std::time::{Duration, Instant};

/// An open path, and what lies around the network on it.
pub(super) struct Frames {
    path: FramePath,
    pipeline: FramePipeline,
    enqueue: Duration,
}

impl CudaSession {
    /// Opens a path unless it is open already; whether it can be.
    pub(super) fn open_frames(&mut self, path: &FramePath) -> Result<bool> {
        // In pixels, for a share of the image may be NaN and equal to nothing.
        let minimum_area = MinimumArea::Pixels(path.post.minimum_area.pixels(path.source));
        let path = &FramePath { post: PostProcessing { minimum_area, ..path.post }, ..*path };
        if self.frames.as_ref().is_some_and(|frames| frames.path == *path) {
            return Ok(true);
        }
        let Some(network) = self.ends_of(path) else { return Ok(false) };
        // The old one's memory first.
        self.frames = None;
        // SAFETY: the spans lie in the arena, which lives longer: it is dropped behind `frames`.
        let pipeline = unsafe { FramePipeline::new(&self.driver, path.source, network, &path.post) }?;
        self.frames = Some(Frames { path: *path, pipeline, enqueue: Duration::ZERO });
        Ok(true)
    }

    /// Where the network's ends lie, if they are what frames can go through.
    fn ends_of(&self, path: &FramePath) -> Option<NetworkEnds> {
        // Between steps of an isolated program the memory is looked at.
        if self.isolation.is_some() || !self.program.is_readable(path.probability) {
            return None;
        }
        let shape = |id| self.program.value(id).shape;
        let Shape::Window { batch: 1, channels: 1, frames, height, width } = shape(path.window) else { return None };
        if shape(path.probability) != (Shape::Maps { batch: 1, channels: 1, height, width }) {
            return None;
        }
        let size = Size { width, height };
        let [window, probability] = [path.window, path.probability].map(|id| self.program.span(id));
        let (window, probability) = (self.arena.address(window?), self.arena.address(probability?));
        let network = NetworkEnds { size, frames, window, probability, lanes: layout::LANES };
        FramePipeline::fits(path.source, size).then_some(network)
    }
}

/// Only an open session is given away as one.
fn not_open() -> Error {
    Error::Internal("frames were given to a session that takes none".into())
}

impl FrameSession for CudaSession {
    fn take(&mut self, place: usize, frame: GreySamples<'_>) -> Result<()> {
        self.frames.as_mut().ok_or_else(not_open)?.pipeline.take(place, frame)
    }

    fn mask(&mut self, places: &[usize]) -> Result<Result<Mask, NotFinite>> {
        self.frames.as_mut().ok_or_else(not_open)?.pipeline.start_window(places)?;
        let begun = Instant::now();
        self.start_all()?;
        let enqueue = begun.elapsed();
        let frames = self.frames.as_mut().ok_or_else(not_open)?;
        frames.enqueue = enqueue;
        frames.pipeline.start_mask()?;
        frames.pipeline.finish()
    }

    fn read_probability(&self, probability: &mut [f32]) -> Result<()> {
        self.read_into(self.frames.as_ref().ok_or_else(not_open)?.path.probability, probability)
    }

    fn times(&self) -> Result<FramePathTimes> {
        let frames = self.frames.as_ref().ok_or_else(not_open)?;
        Ok(FramePathTimes { enqueue: frames.enqueue, ..frames.pipeline.times()? })
    }
}
