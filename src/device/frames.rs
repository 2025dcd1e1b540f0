//! Frames to masks on a device itself: a frame goes there once, as it was read, and its mask comes back.

use crate::error::Result;
use crate::graph::ValueId;
use crate::media::{Mask, Size};
use crate::post::PostProcessing;
use std::time::Duration;

/// The samples of a grey frame, rows from the top. Those of 16 bits are narrowed to 8 by their full range.
#[derive(Debug, Clone, Copy)]
pub enum GreySamples<'a> {
    /// 0..=255
    Eight(&'a [u8]),
    /// 0..=65535
    Sixteen(&'a [u16]),
}

impl GreySamples<'_> {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            GreySamples::Eight(samples) => samples.len(),
            GreySamples::Sixteen(samples) => samples.len(),
        }
    }

    /// As they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        match self {
            GreySamples::Eight(samples) => samples,
            GreySamples::Sixteen(samples) => bytemuck::cast_slice(samples),
        }
    }
}

/// From which frames to which masks, through which values of a program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FramePath {
    /// The input that takes a window: batch 1, one channel.
    pub window: ValueId,
    /// The output that has the middle frame's probability: batch 1, one channel, at the window's size.
    pub probability: ValueId,
    /// The size of the frames and of the masks.
    pub source: Size,
    /// How a probability becomes a mask.
    pub post: PostProcessing,
}

/// The first probability, in the order of rows, that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// The number of its pixel at the network's size, counted from 0.
    pub at: usize,
    /// What it is.
    pub number: f32,
}

/// How long the parts of the last frame and the last mask took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePathTimes {
    /// The frame to the device, from the host's ordinary memory.
    pub upload: Duration,
    /// To resize and scale it, and to put the window together, on the device.
    pub prepare: Duration,
    /// Until the host had started all steps of the network, from when it began to.
    pub enqueue: Duration,
    /// All steps of the network, on the device.
    pub compute: Duration,
    /// From the probability to the mask, on the device.
    pub post: Duration,
    /// The mask to the host's ordinary memory.
    pub download: Duration,
}

/// A program with its memory, as one that makes masks of frames. It holds as many frames as a window has, each in a place
/// of its own.
pub trait FrameSession: Send {
    /// Takes a frame; whatever was in its place is forgotten. The device may still be at it when this returns.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the frame has another size or there is no such place, [`crate::Error::Device`] when
    /// the device fails.
    fn take(&mut self, place: usize, frame: GreySamples<'_>) -> Result<()>;

    /// The mask of the middle one of the frames in these places, oldest first; a place may stand there more than once.
    ///
    /// # Errors
    /// [`crate::Error::Request`] unless these are as many as the window has, [`crate::Error::Device`] when the device
    /// fails.
    fn mask(&mut self, places: &[usize]) -> Result<Result<Mask, NotFinite>>;

    /// Reads the probability that the last mask was made of, at the network's size, rows from the top.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when `probability` has another length, [`crate::Error::Device`] when the device fails.
    fn read_probability(&self, probability: &mut [f32]) -> Result<()>;

    /// How long it took.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails, or there has been no frame or no mask.
    fn times(&self) -> Result<FramePathTimes>;
}
