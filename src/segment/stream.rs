//! Frames as they come: each mask N frames later, or at once.

use super::answer::{Asked, answer, take};
use super::window::{Prepared, Window};
use super::{SegmentedFrame, WindowNetwork};
use crate::error::{Error, Result};
use crate::media::{BilinearResize, Frame, FramePreparer, Size, wrong_size};
use crate::post::PostProcessing;
use std::time::Duration;

/// When a frame's mask leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// As soon as its N later neighbours have arrived: the masks are those of [`super::segment_clip`].
    Neighbours,
    /// At once. The frame itself stands in for the later neighbours, as at the end of a clip, so the network sees no
    /// movement after it.
    None,
}

/// Segments a clip whose end is not known yet, frame by frame.
///
/// Memory stays the same however long it goes on: 2N+1 frames are held.
pub struct StreamSegmenter<'a> {
    network: &'a mut dyn WindowNetwork,
    /// None where the device prepares the frames.
    preparer: Option<FramePreparer>,
    resize: BilinearResize,
    asked: Asked,
    delay: Delay,
    window: Window,
    arrived: usize,
    /// Frames whose masks are out or have failed.
    done: usize,
    has_ended: bool,
    last_network_time: Duration,
}

impl<'a> StreamSegmenter<'a> {
    /// For frames of `source` size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0, and whatever the network's device reports.
    pub fn new(
        network: &'a mut dyn WindowNetwork,
        source: Size,
        post: PostProcessing,
        delay: Delay,
    ) -> Result<StreamSegmenter<'a>> {
        let input = network.input_size();
        let is_prepared_here = network.on_device(source, &post)?.is_none();
        let prepare = || FramePreparer::new(source, network.colour(), input);
        Ok(StreamSegmenter {
            preparer: is_prepared_here.then(prepare).transpose()?,
            resize: BilinearResize::new(input, source)?,
            window: Window::new(network.neighbours(), usize::MAX),
            network,
            asked: Asked { source, post, probability: false },
            delay,
            arrived: 0,
            done: 0,
            has_ended: false,
            last_network_time: Duration::ZERO,
        })
    }

    /// The same, giving the probability with each mask.
    pub fn with_probability(mut self) -> StreamSegmenter<'a> {
        self.asked.probability = true;
        self
    }

    /// Takes the next frame; gives the mask that can be told from then on, if there is one. A frame whose mask fails has
    /// none, and the next ones go on.
    ///
    /// # Errors
    /// [`Error::Request`] for a frame of another size, or after [`StreamSegmenter::finish`]; [`Error::Network`] when a
    /// probability is not a number, and whatever the network reports.
    pub fn push(&mut self, frame: Frame) -> Result<Option<SegmentedFrame>> {
        if self.has_ended {
            return Err(Error::Request("a frame came after the end of the stream".into()));
        }
        let mut planes = Vec::new();
        match &mut self.preparer {
            Some(preparer) => {
                planes = vec![0.0; preparer.values()];
                preparer.prepare(&frame, &mut planes)?;
            }
            None if frame.size() != self.asked.source => return Err(wrong_size(frame.size(), self.asked.source)),
            None => {}
        }
        let index = self.arrived;
        let prepared = Prepared { index, frame: Some(frame), planes };
        take(self.network, &mut self.window, &self.asked, prepared)?;
        self.arrived += 1;
        if self.delay == Delay::None {
            self.window.end_at(index);
            return self.segment(index).map(Some);
        }
        index.checked_sub(self.network.neighbours()).map(|middle| self.segment(middle)).transpose()
    }

    /// No frame comes any more: gives the next of the masks that were still waiting for one, the last frame repeated;
    /// `None` once all are out.
    ///
    /// # Errors
    /// As [`StreamSegmenter::push`].
    pub fn finish(&mut self) -> Result<Option<SegmentedFrame>> {
        self.has_ended = true;
        if self.done == self.arrived {
            return Ok(None);
        }
        self.window.end_at(self.arrived - 1);
        self.segment(self.done).map(Some)
    }

    /// How long the network took for the last mask; where the device makes the masks, what it still had to do with the
    /// newest frame included.
    pub fn network_time(&self) -> Duration {
        self.last_network_time
    }

    fn segment(&mut self, index: usize) -> Result<SegmentedFrame> {
        // Even if it fails: frames that come later push those out that its window needs.
        self.done = index + 1;
        let answer = answer(self.network, &self.window, &self.asked, index)?;
        self.last_network_time = answer.took;
        let frame = self.window.take_frame(index);
        let frame = frame.ok_or_else(|| Error::Internal(format!("frame {index} is not in its own window")))?;
        let (mask, probability) = answer.finished(&mut self.resize, &self.asked)?;
        Ok(SegmentedFrame { index, frame, probability, mask })
    }
}
