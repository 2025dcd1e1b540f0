//! The steps around the network on the device, kernels of `kernels/frames.cu`: a grey frame becomes a plane of the
//! network's window, a probability becomes a mask.
//!
//! Both compute what [`crate::media::FramePreparer`] and [`crate::post`] compute on the CPU, bit for bit where the
//! CPU has AVX2. Elsewhere the CPU adds in another order in float64: a resized number may then differ in its last
//! float32 bit, and a mask only in pixels whose probability lies that close to the threshold.

use super::driver::{Address, Driver, Launch};
use super::memory::Memory;
use super::resampling::Resampling;
use crate::device::layout::LANES;
use crate::error::{Error, Result};
use crate::media::{Mask, Size};
use crate::post::Threshold;
use crate::program::Span;
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;

/// Threads of a block, as the kernels' `THREADS`.
const THREADS: u32 = 256;

/// Probabilities that a block looks at, as the kernels' `THREADS` and `PIXELS` have it.
const LOOKED_AT: usize = 256 * 8;

/// The samples of a grey frame, rows from the top. Those of 16 bits are narrowed to 8 by their full range.
#[derive(Debug, Clone, Copy)]
pub enum GreySamples<'a> {
    /// 0..=255
    Eight(&'a [u8]),
    /// 0..=65535
    Sixteen(&'a [u16]),
}

impl GreySamples<'_> {
    fn len(self) -> usize {
        match self {
            GreySamples::Eight(samples) => samples.len(),
            GreySamples::Sixteen(samples) => samples.len(),
        }
    }
}

/// What a kernel says of the first number that is not finite; the layout of its `NotFinite`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NotFinite {
    at: i32,
    number: f32,
}

/// Frames of one size to a network of another and masks back, with the memory for it.
pub struct FramePipeline {
    driver: Arc<dyn Driver>,
    source: Size,
    target: Size,
    /// Frames across and down, probabilities across and down.
    frame: [Axis; 2],
    probability: [Axis; 2],
    samples: Memory,
    /// What is resized across but not yet down.
    between: Memory,
    mask: Memory,
    /// What each block finds that looks for numbers which are not finite, how many of them are done, and what they found.
    finds: Memory,
    done: Memory,
    not_finite: Memory,
}

impl FramePipeline {
    /// From frames of `source` size to a network that reads and answers at `target` size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0 or a size has more pixels than a kernel can count, [`Error::Device`] when
    /// memory is short.
    pub fn new(driver: &Arc<dyn Driver>, source: Size, target: Size) -> Result<FramePipeline> {
        let mixed = [source.height.checked_mul(target.width), target.height.checked_mul(source.width)];
        let areas = [source.width.checked_mul(source.height), target.width.checked_mul(target.height)];
        // Kernels count numbers in a C++ `int`, those of a probability with all lanes.
        let fits = |area: &Option<usize>| area.is_some_and(|area| (1..=i32::MAX as usize / LANES).contains(&area));
        if !areas.iter().chain(&mixed).all(fits) {
            return Err(Error::Request(format!("frames of {source} cannot be prepared at {target} on the device")));
        }
        let memory = |bytes: usize| Memory::zeroed(driver, bytes.div_ceil(size_of::<f32>()));
        let axis = |from, to| Axis::new(driver, from, to);
        Ok(FramePipeline {
            driver: driver.clone(),
            source,
            target,
            frame: [axis(source.width, target.width)?, axis(source.height, target.height)?],
            probability: [axis(target.width, source.width)?, axis(target.height, source.height)?],
            samples: memory(source.area() * size_of::<u16>())?,
            between: Memory::zeroed(driver, mixed.into_iter().flatten().max().unwrap_or(0))?,
            mask: memory(source.area())?,
            finds: Memory::zeroed(driver, target.area().div_ceil(LOOKED_AT))?,
            done: Memory::zeroed(driver, 1)?,
            not_finite: memory(size_of::<NotFinite>())?,
        })
    }

    /// Resizes a frame, scales it to x/255*3.2-1.6 and leaves it in `plane`; the device may still be at it when this
    /// returns.
    ///
    /// # Errors
    /// [`Error::Request`] when the frame has another size, [`Error::Device`] when the device fails.
    ///
    /// # Safety
    /// `plane` has room for `target` numbers in memory of the driver.
    pub unsafe fn prepare(&mut self, frame: GreySamples<'_>, plane: Address) -> Result<()> {
        if frame.len() != self.source.area() {
            let (given, expected) = (frame.len(), self.source);
            return Err(Error::Request(format!("a frame of {given} samples was given where {expected} is expected")));
        }
        let kernel = match frame {
            GreySamples::Eight(samples) => {
                self.samples.write_bytes(samples)?;
                "frame8_across"
            }
            GreySamples::Sixteen(samples) => {
                self.samples.write_bytes(bytemuck::cast_slice(samples))?;
                "frame16_across"
            }
        };
        let [across, down] = &self.frame;
        let numbers = self.source.height * self.target.width;
        let across = across.launch(kernel, self.samples.start(), self.between.start(), numbers, numbers);
        let across = across.with_int(self.source.width).with_int(self.target.width);
        let numbers = self.target.area();
        let down = down.launch("frame_down", self.between.start(), plane, numbers, numbers);
        self.start(&[across, down.with_int(self.target.width)])
    }

    /// Resizes a probability and thresholds it (p >= t is vessel); small components stay.
    ///
    /// # Errors
    /// [`Error::Network`] when a probability is NaN or infinite, [`Error::Device`] when the device fails.
    ///
    /// # Safety
    /// `probability` holds `target` pixels of `lanes` numbers, at most 8, in memory of the driver; the first of each
    /// is read.
    pub unsafe fn mask(&mut self, probability: Address, lanes: usize, threshold: Threshold) -> Result<Mask> {
        let blocks = self.target.area().div_ceil(LOOKED_AT) as u32;
        let look = Launch::new("first_not_finite", [blocks, 1, 1], [THREADS, 1, 1]).with(probability);
        let look = look.with(self.finds.start()).with(self.done.start()).with(self.not_finite.start());
        let look = look.with_int(self.target.area()).with_int(lanes);
        let [across, down] = &self.probability;
        let numbers = self.target.height * self.source.width;
        let across = across.launch("probability_across", probability, self.between.start(), numbers, numbers);
        let across = across.with_int(self.target.width).with_int(self.source.width).with_int(lanes);
        let pixels = self.source.area();
        let down = down.launch("mask_down", self.between.start(), self.mask.start(), pixels.div_ceil(4), pixels);
        self.start(&[look, across, down.with_int(self.source.width).with(threshold.value())]).inspect_err(|_| {
            // Blocks that never came have not been counted. What may go wrong here has gone wrong already.
            let _ = self.done.fill(Span { offset: 0, len: 1 }, 0.0);
        })?;
        self.check_numbers()?;
        let mut pixels = vec![0; pixels];
        self.mask.read_bytes(&mut pixels)?;
        Ok(Mask { size: self.source, pixels })
    }

    fn check_numbers(&self) -> Result<()> {
        let mut found = NotFinite { at: 0, number: 0.0 };
        self.not_finite.read_bytes(bytemuck::bytes_of_mut(&mut found))?;
        let at = found.at as usize;
        if at >= self.target.area() {
            return Ok(());
        }
        Err(Error::Network(format!(
            "the network produced {} at column {}, row {}; check its weights",
            if found.number.is_nan() { "NaN" } else { "infinity" },
            at % self.target.width,
            at / self.target.width
        )))
    }

    fn start(&self, launches: &[Launch]) -> Result<()> {
        // SAFETY: the arguments are what the kernels' headers ask for; the memory is this pipeline's or, by the
        // caller's promise, large enough.
        launches.iter().try_for_each(|launch| unsafe { self.driver.launch(launch) })
    }
}

impl Drop for FramePipeline {
    fn drop(&mut self) {
        // Its memory must not be given back while a kernel uses it; an error has nobody left to go to.
        let _ = self.driver.synchronise();
    }
}

/// A [`Resampling`] in device memory.
struct Axis {
    taps: Memory,
    weights: Memory,
    most: usize,
}

impl Axis {
    fn new(driver: &Arc<dyn Driver>, source: usize, target: usize) -> Result<Axis> {
        let Resampling { taps, weights, most } = Resampling::new(source, target);
        let stored = |bytes: &[u8]| {
            let memory = Memory::zeroed(driver, bytes.len().div_ceil(size_of::<f32>()))?;
            memory.write_bytes(bytes)?;
            Ok::<Memory, Error>(memory)
        };
        let (taps, weights) = (stored(bytemuck::cast_slice(&taps))?, stored(bytemuck::cast_slice(&weights))?);
        Ok(Axis { taps, weights, most })
    }

    /// A kernel of `x`, `y`, this table and the `length` of y, for `threads` threads.
    fn launch(&self, kernel: &'static str, x: Address, y: Address, threads: usize, length: usize) -> Launch {
        let launch = Launch::of_threads(kernel, threads, THREADS).with(x).with(y);
        launch.with(self.taps.start()).with(self.weights.start()).with_int(self.most).with_int(length)
    }
}
