//! From a window to a mask, on the network's device where that does it all, else with the host's help.

use super::WindowNetwork;
use super::window::{Prepared, Window};
use crate::device::{GreySamples, NotFinite};
use crate::error::{Error, Result};
use crate::media::{BilinearResize, Colour, Frame, Mask, ProbabilityMap, Size};
use crate::post::{PostProcessing, to_source_size};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// What is asked of the frames of a clip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Their size.
    pub source: Size,
    pub post: PostProcessing,
    /// Whether the probability is wanted, too.
    pub probability: bool,
}

/// What the network, or its device, says about a frame.
pub(super) struct Answer {
    /// At the network's size; empty where the mask is there and nobody has asked for it.
    probability: Vec<f32>,
    mask: Option<Mask>,
    /// How long that took.
    pub took: Duration,
}

/// Takes a frame into the window, and to the device where that makes the masks.
pub(super) fn take(
    network: &mut dyn WindowNetwork,
    window: &mut Window,
    asked: &Asked,
    prepared: Prepared,
) -> Result<()> {
    if let Some(device) = network.on_device(asked.source, &asked.post)? {
        let frame = prepared.frame.as_ref();
        let frame = frame.ok_or_else(|| Error::Internal("a frame was lost on its way to the device".into()))?;
        device.take(window.place(prepared.index), GreySamples::Eight(&grey(frame)))?;
    }
    window.push(prepared);
    Ok(())
}

/// Asks about frame `index`.
pub(super) fn answer(network: &mut dyn WindowNetwork, window: &Window, asked: &Asked, index: usize) -> Result<Answer> {
    let (input, begun) = (network.input_size(), Instant::now());
    let Some(device) = network.on_device(asked.source, &asked.post)? else {
        let mut probability = vec![0.0; input.area()];
        network.run(&window.around(index), &mut probability)?;
        let took = begun.elapsed();
        check_numbers(index, input, &probability)?;
        return Ok(Answer { probability, mask: None, took });
    };
    let mask = device.mask(&window.places_around(index))?;
    let took = begun.elapsed();
    let mask = mask.map_err(|found| not_finite(index, input, found))?;
    let mut probability = Vec::new();
    if asked.probability {
        probability = vec![0.0; input.area()];
        device.read_probability(&mut probability)?;
    }
    Ok(Answer { probability, mask: Some(mask), took })
}

impl Answer {
    /// The mask and, where it was asked for, the probability, both at the frame's own size.
    pub fn finished(self, resize: &mut BilinearResize, asked: &Asked) -> Result<(Mask, Option<ProbabilityMap>)> {
        match self.mask {
            Some(mask) if !asked.probability => Ok((mask, None)),
            mask => {
                let probability = to_source_size(resize, &self.probability)?;
                let mask = mask.unwrap_or_else(|| asked.post.mask(&probability));
                Ok((mask, asked.probability.then_some(probability)))
            }
        }
    }
}

/// What a network that reads grey sees of a frame.
fn grey(frame: &Frame) -> Cow<'_, [u8]> {
    match frame.colour() {
        Colour::Grey => Cow::Borrowed(frame.samples()),
        Colour::Rgb => Cow::Owned(frame.clone().into_grey().samples().to_vec()),
    }
}

/// An error unless all probabilities of frame `index` are numbers.
pub(crate) fn check_numbers(index: usize, size: Size, probability: &[f32]) -> Result<()> {
    let found = probability.iter().position(|p| !p.is_finite());
    found.map_or(Ok(()), |at| Err(not_finite(index, size, NotFinite { at, number: probability[at] })))
}

/// The error of a frame with a probability that is none.
pub(crate) fn not_finite(index: usize, size: Size, found: NotFinite) -> Error {
    let NotFinite { at, number } = found;
    Error::Network(format!(
        "the network produced {} in frame {index} at column {}, row {}; check its weights",
        if number.is_nan() { "NaN" } else { "infinity" },
        at % size.width,
        at / size.width
    ))
}
