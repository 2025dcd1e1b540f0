//! The steps around the network on the device, kernels of `kernels/frames.cu` and `kernels/components.cu`: a grey frame
//! becomes a plane of the network's window, a probability becomes a mask.
//!
//! They compute what [`crate::media::FramePreparer`] and [`crate::post`] compute on the CPU, bit for bit where the
//! CPU has AVX2. Elsewhere the CPU adds in another order in float64: a resized number may then differ in its last
//! float32 bit, and a mask only in pixels whose probability lies that close to the threshold.
//!
//! All work is asked for ahead: a frame's upload, its plane, the window, and behind the network one graph that makes the
//! mask and one copy that brings it, with what is to be known about the probability in front of it. The host waits once.

use super::driver::{Address, Driver, Launch, Moments, Recording, Stopped};
use super::memory::{HostMemory, Memory};
use super::resampling::Resampling;
use crate::device::layout::LANES;
use crate::device::{FramePathTimes, GreySamples, NotFinite};
use crate::error::{Error, Result};
use crate::media::{Mask, Size};
use crate::post::PostProcessing;
use crate::program::Span;
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Threads of a block, as the kernels' `THREADS`.
const THREADS: u32 = 256;

/// Probabilities that a block looks at, as the kernels' `THREADS` and `PIXELS` have it.
const LOOKED_AT: usize = 256 * 8;

/// The most frames of a window, as the kernels' `Slots` has it.
const MOST_FRAMES: usize = 7;

/// What a kernel says of the first number that is not finite; the layout of its `NotFinite`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Found {
    at: i32,
    number: f32,
}

/// Where a network's ends lie in device memory.
#[derive(Debug, Clone, Copy)]
pub struct NetworkEnds {
    /// What the network reads and answers, in pixels.
    pub size: Size,
    /// Frames of a window.
    pub frames: usize,
    /// The window: as many planes of float32 numbers.
    pub window: Address,
    /// The probability: `lanes` float32 numbers a pixel, of which the first is it.
    pub probability: Address,
    /// At most 8.
    pub lanes: usize,
}

/// When the device has come how far.
#[derive(Clone, Copy)]
enum Moment {
    /// With a frame.
    Start,
    Uploaded,
    Prepared,
    /// With a window.
    Begun,
    WindowThere,
    Computed,
    MaskThere,
    Downloaded,
}

/// Frames of one size to a network of another and masks back, with the memory for it.
pub struct FramePipeline {
    driver: Arc<dyn Driver>,
    source: Size,
    network: NetworkEnds,
    /// Frames across and down.
    frame: [Axis; 2],
    /// The launches behind the network.
    to_mask: Box<dyn Recording>,
    /// What they need, all but the first two.
    buffers: Buffers,
    /// A frame, on the host and on the device.
    staged: HostMemory,
    samples: Memory,
    /// The planes of the last frames, each in its place.
    ring: Memory,
    /// [`Found`], then the mask, on the device and on the host.
    answer: Memory,
    answered: HostMemory,
    /// The device may still read `staged`.
    is_uploading: bool,
    moments: Box<dyn Moments>,
    staging: Duration,
    unpacking: Duration,
}

/// Device memory that only launches use.
struct Buffers {
    /// Probabilities across and down.
    probability: [Axis; 2],
    /// What is resized across but not yet down.
    between: Memory,
    /// What each block finds that looks for numbers which are not finite, and how many of them are done.
    finds: Memory,
    done: Memory,
    /// Of each pixel of the mask, where small components are removed.
    labels: Memory,
    areas: Memory,
}

impl FramePipeline {
    /// Whether kernels can count the pixels of frames of this size, and of the network's.
    pub fn fits(source: Size, network: Size) -> bool {
        let mixed = [source.height.checked_mul(network.width), network.height.checked_mul(source.width)];
        let areas = [source.width.checked_mul(source.height), network.width.checked_mul(network.height)];
        // Kernels count numbers in a C++ `int`, those of a probability with all lanes, those of a window in all frames.
        let fits = |area: &Option<usize>| area.is_some_and(|area| (1..=i32::MAX as usize / LANES).contains(&area));
        areas.iter().chain(&mixed).all(fits)
    }

    /// From frames of `source` size through the network to masks of `source` size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0, a size has more pixels than a kernel can count or the window has more frames,
    /// [`Error::Device`] when memory is short.
    ///
    /// # Safety
    /// The network's window and probability are as large as they are said to be, in memory of the driver, and live as
    /// long as the pipeline.
    pub unsafe fn new(
        driver: &Arc<dyn Driver>,
        source: Size,
        network: NetworkEnds,
        post: &PostProcessing,
    ) -> Result<FramePipeline> {
        let size = network.size;
        if !FramePipeline::fits(source, size) || !(1..=MOST_FRAMES).contains(&network.frames) {
            return Err(Error::Request(format!("frames of {source} cannot be prepared at {size} on the device")));
        }
        let answer_bytes = size_of::<Found>() + source.area().next_multiple_of(size_of::<f32>());
        let answer = Memory::zeroed(driver, answer_bytes / size_of::<f32>())?;
        let minimum = post.minimum_area.pixels(source);
        let buffers = Buffers::new(driver, source, &network, minimum)?;
        let launches = buffers.launches(source, &network, answer.start(), post.threshold.value(), minimum);
        // SAFETY: the arguments are what the kernels' headers ask for; the memory is the pipeline's, which keeps the
        // recording, or, by the caller's promise, large enough.
        let to_mask = unsafe { driver.record(&launches.iter().collect::<Vec<_>>()) }?;
        let axis = |from, to| Axis::new(driver, from, to);
        let frame_bytes = source.area() * size_of::<u16>();
        Ok(FramePipeline {
            driver: driver.clone(),
            source,
            network,
            frame: [axis(source.width, size.width)?, axis(source.height, size.height)?],
            to_mask,
            buffers,
            staged: HostMemory::zeroed(driver, frame_bytes)?,
            samples: Memory::zeroed(driver, frame_bytes.div_ceil(size_of::<f32>()))?,
            ring: Memory::zeroed(driver, network.frames * size.area())?,
            answer,
            answered: HostMemory::zeroed(driver, answer_bytes)?,
            is_uploading: false,
            moments: driver.moments(Moment::Downloaded as usize + 1)?,
            staging: Duration::ZERO,
            unpacking: Duration::ZERO,
        })
    }

    /// Takes a frame to the device, resizes it, scales it to x/255*3.2-1.6 and keeps it in one of as many places as a
    /// window has frames; the device may still be at it when this returns.
    ///
    /// # Errors
    /// [`Error::Request`] when the frame has another size or there is no such place, [`Error::Device`] when the device
    /// fails.
    pub fn take(&mut self, place: usize, frame: GreySamples<'_>) -> Result<()> {
        let (given, expected) = (frame.count(), self.source);
        if given != expected.area() {
            return Err(Error::Request(format!("a frame of {given} samples was given where {expected} is expected")));
        }
        let plane = self.plane(place)?;
        if self.is_uploading {
            self.wait()?;
        }
        let (begun, bytes) = (Instant::now(), frame.bytes());
        self.staged[..bytes.len()].copy_from_slice(bytes);
        self.staging = begun.elapsed();
        self.mark(Moment::Start)?;
        self.is_uploading = true;
        // SAFETY: `samples` is as large as `staged`, which nobody writes before `is_uploading` is over.
        unsafe { self.driver.start_upload(self.samples.start(), &self.staged[..bytes.len()]) }?;
        self.mark(Moment::Uploaded)?;
        let kernel = match frame {
            GreySamples::Eight(_) => "frame8_across",
            GreySamples::Sixteen(_) => "frame16_across",
        };
        let [across, down] = &self.frame;
        let (size, between) = (self.network.size, self.buffers.between.start());
        let numbers = self.source.height * size.width;
        let across = across.launch(kernel, self.samples.start(), between, numbers, numbers);
        self.launch(&across.with_int(self.source.width).with_int(size.width))?;
        let numbers = size.area();
        self.launch(&down.launch("frame_down", between, plane, numbers, numbers).with_int(size.width))?;
        self.mark(Moment::Prepared)
    }

    /// Makes the network's window of the frames in these places, oldest first.
    ///
    /// # Errors
    /// [`Error::Request`] unless these are as many as a window has, [`Error::Device`] when the device fails.
    pub fn start_window(&mut self, places: &[usize]) -> Result<()> {
        let (given, expected) = (places.len(), self.network.frames);
        if given != expected {
            return Err(Error::Request(format!("{given} frames were given where a window has {expected}")));
        }
        places.iter().try_for_each(|&place| self.plane(place).map(drop))?;
        let mut slots = [0i32; MOST_FRAMES];
        slots.iter_mut().zip(places).for_each(|(slot, &place)| *slot = place as i32);
        let area = self.network.size.area();
        let grid = [area.div_ceil(THREADS as usize) as u32, places.len() as u32, 1];
        let gather = Launch::new("gather_window", grid, [THREADS, 1, 1]).with(self.ring.start());
        self.mark(Moment::Begun)?;
        self.launch(&gather.with(self.network.window).with(slots).with_int(area))?;
        self.mark(Moment::WindowThere)
    }

    /// Makes the mask of the probability, once the network is done with it, and brings it back.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn start_mask(&mut self) -> Result<()> {
        self.mark(Moment::Computed)?;
        self.to_mask.start().map_err(|Stopped { error, .. }| {
            // Blocks that never came have not been counted. What may go wrong here has gone wrong already.
            let _ = self.buffers.done.fill(Span { offset: 0, len: 1 }, 0.0);
            error
        })?;
        self.mark(Moment::MaskThere)?;
        // SAFETY: both are as large, and nobody reads the host's before `finish` has waited.
        unsafe { self.driver.start_download(self.answer.start(), &mut self.answered) }?;
        self.mark(Moment::Downloaded)
    }

    /// Waits for the mask, p >= t is vessel, without components of fewer pixels than the minimum.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn finish(&mut self) -> Result<Result<Mask, NotFinite>> {
        self.wait()?;
        let begun = Instant::now();
        let (found, pixels) = self.answered.split_at(size_of::<Found>());
        let found: Found = bytemuck::pod_read_unaligned(found);
        let at = found.at as usize;
        if at < self.network.size.area() {
            return Ok(Err(NotFinite { at, number: found.number }));
        }
        let mask = Mask { size: self.source, pixels: pixels[..self.source.area()].to_vec() };
        self.unpacking = begun.elapsed();
        Ok(Ok(mask))
    }

    /// How long the parts of the last frame and the last mask took; `enqueue` is the caller's to fill in.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails, or there has been no frame or no mask.
    pub fn times(&self) -> Result<FramePathTimes> {
        let between = |from: Moment, to: Moment| self.moments.between(from as usize, to as usize);
        let window = between(Moment::Begun, Moment::WindowThere)?;
        Ok(FramePathTimes {
            upload: self.staging + between(Moment::Start, Moment::Uploaded)?,
            prepare: between(Moment::Uploaded, Moment::Prepared)? + window,
            enqueue: Duration::ZERO,
            compute: between(Moment::WindowThere, Moment::Computed)?,
            post: between(Moment::Computed, Moment::MaskThere)?,
            download: between(Moment::MaskThere, Moment::Downloaded)? + self.unpacking,
        })
    }

    /// Where a place's plane lies.
    fn plane(&self, place: usize) -> Result<Address> {
        let frames = self.network.frames;
        if place >= frames {
            return Err(Error::Request(format!("there is no place {place} for a frame: a window has {frames}")));
        }
        let len = self.network.size.area();
        Ok(self.ring.address(Span { offset: place * len, len }))
    }

    fn wait(&mut self) -> Result<()> {
        self.driver.synchronise()?;
        self.is_uploading = false;
        Ok(())
    }

    fn mark(&self, moment: Moment) -> Result<()> {
        self.moments.mark(moment as usize)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        // SAFETY: the arguments are what the kernels' headers ask for; the memory is this pipeline's or, by the promise
        // given to `new`, large enough.
        unsafe { self.driver.launch(launch) }
    }
}

impl Drop for FramePipeline {
    fn drop(&mut self) {
        // Its memory must not be given back while a kernel uses it; an error has nobody left to go to.
        let _ = self.driver.synchronise();
    }
}

impl Buffers {
    fn new(driver: &Arc<dyn Driver>, source: Size, network: &NetworkEnds, minimum: usize) -> Result<Buffers> {
        let size = network.size;
        let axis = |from, to| Axis::new(driver, from, to);
        let mixed = (source.height * size.width).max(size.height * source.width);
        let labelled = if minimum > 1 { source.area() } else { 0 };
        Ok(Buffers {
            probability: [axis(size.width, source.width)?, axis(size.height, source.height)?],
            between: Memory::zeroed(driver, mixed)?,
            finds: Memory::zeroed(driver, size.area().div_ceil(LOOKED_AT))?,
            done: Memory::zeroed(driver, 1)?,
            labels: Memory::zeroed(driver, labelled)?,
            areas: Memory::zeroed(driver, labelled)?,
        })
    }

    /// What makes an answer of a probability.
    fn launches(
        &self,
        source: Size,
        network: &NetworkEnds,
        answer: Address,
        threshold: f32,
        minimum: usize,
    ) -> Vec<Launch> {
        let NetworkEnds { size, probability, lanes, .. } = *network;
        let mask = answer.after(size_of::<Found>() / size_of::<f32>());
        let blocks = size.area().div_ceil(LOOKED_AT) as u32;
        let look = Launch::new("first_not_finite", [blocks, 1, 1], [THREADS, 1, 1]).with(probability);
        let look = look.with(self.finds.start()).with(self.done.start()).with(answer);
        let look = look.with_int(size.area()).with_int(lanes);
        let [across, down] = &self.probability;
        let numbers = size.height * source.width;
        let across = across.launch("probability_across", probability, self.between.start(), numbers, numbers);
        let across = across.with_int(size.width).with_int(source.width).with_int(lanes);
        let (pixels, width) = (source.area(), source.width);
        let words = pixels.div_ceil(4);
        let down = down.launch("mask_down", self.between.start(), mask, words, pixels);
        let mut launches = vec![look, across, down.with_int(width).with(threshold)];
        if minimum > 1 {
            let of =
                |kernel, threads| Launch::of_threads(kernel, threads, THREADS).with(mask).with(self.labels.start());
            // No component has more pixels than a C++ `int` can count.
            let minimum = minimum.min(i32::MAX as usize);
            launches.extend([
                of("mask_runs", pixels).with(self.areas.start()).with_int(pixels).with_int(width),
                of("unite_runs", pixels).with_int(pixels).with_int(width),
                of("sum_areas", pixels).with(self.areas.start()).with_int(pixels),
                of("clear_small", words).with(self.areas.start()).with_int(pixels).with_int(minimum),
            ]);
        }
        launches
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
