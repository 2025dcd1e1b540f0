//! A frame arrives, a mask leaves: the work, timed part by part.

use super::steps::{StepTime, medians};
use crate::device::cpu::last_level_cache;
use crate::device::{FramePathTimes, GreySamples, Session};
use crate::error::{Error, Result};
use crate::media::{BilinearResize, Colour, Frame, FramePreparer, Mask, Size};
use crate::post::{PostProcessing, to_source_size};
use crate::segment::{EngineNetwork, EngineTimes, WindowNetwork, check_numbers, not_finite};
use std::collections::VecDeque;
use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What happens between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: one follows the other at once.
    Warm,
    /// The caches of processor and device are filled with something else.
    Flushed,
    /// The device idles until the next frame is due, as beside an angiograph.
    Paced,
}

impl Mode {
    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Warm => "warm",
            Mode::Flushed => "flushed",
            Mode::Paced => "paced",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let named = [Mode::Warm, Mode::Flushed, Mode::Paced].into_iter().find(|mode| mode.name() == text);
        named.ok_or_else(|| format!("a mode is warm, flushed or paced, not {text}"))
    }
}

/// How long one frame took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTimes {
    /// From the 8-bit frame in the host's memory to the mask there.
    pub end_to_end: Duration,
    /// Resizing and scaling the frame; where the device does it, and puts the window together, its time for that.
    pub prepare: Duration,
    /// What the network took, and getting numbers to it and back: the window and the probability, or, where the device
    /// makes the masks, the frame and the mask.
    pub engine: EngineTimes,
    /// From the probability to the mask: resizing, threshold, small components.
    pub post: Duration,
}

/// Frames of the clip that goes round and round.
const CLIP: usize = 8;
/// Bytes that are written to flush a processor's caches where the system does not say how large they are.
const FLUSHED: usize = 128 << 20;

/// A network on a device with all that a frame meets before and behind it.
pub struct FrameBench {
    network: EngineNetwork,
    source: Size,
    clip: Vec<Frame>,
    /// Frames so far.
    count: usize,
    /// Frames of a window.
    frames: usize,
    post: PostProcessing,
    /// What the host does, unless the device makes the masks by itself.
    on_host: Option<OnHost>,
    flusher: Vec<u64>,
}

/// What lies around the network on the host.
struct OnHost {
    preparer: FramePreparer,
    /// The window's frames as the network reads them, oldest first.
    window: VecDeque<Vec<f32>>,
    probability: Vec<f32>,
    resize: BilinearResize,
}

impl FrameBench {
    /// For frames of `source` size, grey or coloured as the network reads them.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0, [`Error::Device`] when the device fails or memory is short.
    pub fn new(mut network: EngineNetwork, source: Size) -> Result<FrameBench> {
        let (colour, input, post) = (network.colour(), network.input_size(), PostProcessing::default());
        let clip = (0..CLIP).map(|number| frame(source, colour, number)).collect::<Result<Vec<_>>>()?;
        let frames = 2 * network.neighbours() + 1;
        let mut on_host = None;
        match network.on_device(source, &post)? {
            Some(device) => (0..frames).try_for_each(|number| device.take(number, samples(&clip[number % CLIP])))?,
            None => on_host = Some(OnHost::new(&clip, source, colour, input, frames)?),
        }
        Ok(FrameBench { network, source, clip, count: frames, frames, post, on_host, flusher: Vec::new() })
    }

    /// Whether the device makes the masks by itself.
    pub fn is_on_device(&self) -> bool {
        self.on_host.is_none()
    }

    /// One frame arrives; the mask of the window's middle one leaves.
    ///
    /// # Errors
    /// [`Error::Network`] when a probability is not a number, [`Error::Device`] when the device fails.
    pub fn frame(&mut self) -> Result<(FrameTimes, Mask)> {
        let (number, frame, input) = (self.count, &self.clip[self.count % CLIP], self.network.input_size());
        let found = match &mut self.on_host {
            Some(host) => host.frame(&mut self.network, &self.post, frame, number)?,
            None => {
                let begun = Instant::now();
                let device = self.network.on_device(self.source, &self.post)?;
                let device = device.ok_or_else(|| Error::Internal("the device makes no masks any more".into()))?;
                device.take(number % self.frames, samples(frame))?;
                let places: Vec<usize> = (number + 1..=number + self.frames).map(|later| later % self.frames).collect();
                let mask = device.mask(&places)?.map_err(|found| not_finite(number, input, found))?;
                let end_to_end = begun.elapsed();
                let FramePathTimes { upload, prepare, enqueue, compute, post, download } = device.times()?;
                let engine = EngineTimes { upload, enqueue: Some(enqueue), compute, download };
                (FrameTimes { end_to_end, prepare, engine, post }, mask)
            }
        };
        self.count += 1;
        Ok(found)
    }

    /// Times `frames` frames after `warm_up` others, `period` from the start of one to the start of the next where the
    /// mode is paced. `go_on` is asked before each.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `go_on` says so, and those of [`FrameBench::frame`].
    pub fn run(
        &mut self,
        mode: Mode,
        warm_up: usize,
        frames: usize,
        period: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<FrameTimes>> {
        // Somebody may ask for more than memory holds and stop it.
        let mut times = Vec::with_capacity(frames.min(1 << 16));
        let mut due = Instant::now();
        for number in 0..warm_up.saturating_add(frames) {
            if !go_on() {
                return Err(Error::Interrupted);
            }
            match mode {
                Mode::Warm => {}
                Mode::Flushed => self.flush_caches()?,
                Mode::Paced => {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    // A frame that took longer than the period delays all that come.
                    due = due.max(Instant::now()) + period;
                }
            }
            let (time, _) = self.frame()?;
            if number >= warm_up {
                times.push(time);
            }
        }
        Ok(times)
    }

    /// The time of each step of the network, the median of `runs` frames in which every step is waited for.
    ///
    /// # Errors
    /// As [`FrameBench::run`].
    pub fn steps(&mut self, runs: usize, go_on: &mut dyn FnMut() -> bool) -> Result<Vec<StepTime>> {
        let session = self.network.session();
        let mut samples = vec![Vec::with_capacity(runs); session.program().steps().len()];
        for _ in 0..runs {
            if !go_on() {
                return Err(Error::Interrupted);
            }
            let mut times = vec![Duration::ZERO; samples.len()];
            session.run_timed(&mut times)?;
            samples.iter_mut().zip(times).for_each(|(samples, time)| samples.push(time));
        }
        Ok(medians(session, samples))
    }

    /// The network's session.
    pub fn session(&mut self) -> &mut dyn Session {
        self.network.session()
    }

    fn flush_caches(&mut self) -> Result<()> {
        if self.flusher.is_empty() {
            let bytes = last_level_cache().map_or(FLUSHED, |cache| (2 * cache).max(FLUSHED / 4));
            self.flusher = vec![0; bytes / size_of::<u64>()];
        }
        self.flusher.iter_mut().for_each(|word| *word = word.wrapping_add(1));
        black_box(&self.flusher);
        self.network.session().flush_caches()
    }
}

impl OnHost {
    fn new(clip: &[Frame], source: Size, colour: Colour, input: Size, frames: usize) -> Result<OnHost> {
        let mut preparer = FramePreparer::new(source, colour, input)?;
        let prepared = (0..frames).map(|number| {
            let mut planes = vec![0.0; preparer.values()];
            preparer.prepare(&clip[number % CLIP], &mut planes)?;
            Ok(planes)
        });
        let window = prepared.collect::<Result<VecDeque<_>>>()?;
        let resize = BilinearResize::new(input, source)?;
        Ok(OnHost { preparer, window, probability: vec![0.0; input.area()], resize })
    }

    fn frame(
        &mut self,
        network: &mut EngineNetwork,
        post: &PostProcessing,
        frame: &Frame,
        number: usize,
    ) -> Result<(FrameTimes, Mask)> {
        let begun = Instant::now();
        let mut planes = self.window.pop_front().unwrap_or_default();
        self.preparer.prepare(frame, &mut planes)?;
        self.window.push_back(planes);
        let prepare = begun.elapsed();
        let window: Vec<&[f32]> = self.window.iter().map(Vec::as_slice).collect();
        let engine = network.run_measured(&window, &mut self.probability)?;
        let computed = Instant::now();
        check_numbers(number, network.input_size(), &self.probability)?;
        let mask = post.mask(&to_source_size(&mut self.resize, &self.probability)?);
        let times = FrameTimes { end_to_end: begun.elapsed(), prepare, engine, post: computed.elapsed() };
        Ok((times, mask))
    }
}

/// Of a grey frame.
fn samples(frame: &Frame) -> GreySamples<'_> {
    GreySamples::Eight(frame.samples())
}

/// Stripes that move: no two neighbouring pixels or frames are the same.
fn frame(size: Size, colour: Colour, number: usize) -> Result<Frame> {
    // A sine for each column and row, not for each pixel: a cold start draws them, too.
    let column = |x: usize| (128.0 + 70.0 * (0.05 * x as f32 + 0.8 * number as f32).sin(), (0.01 * x as f32).sin_cos());
    let columns: Vec<_> = (0..size.width).map(column).collect();
    let mut samples = Vec::with_capacity(size.area() * colour.samples());
    for y in 0..size.height {
        let (row_sin, row_cos) = (0.03 * y as f32).sin_cos();
        for &(base, (sin, cos)) in &columns {
            let grey = base + 50.0 * (row_cos * cos + row_sin * sin);
            samples.extend(std::iter::repeat_n(grey as u8, colour.samples()));
        }
    }
    Frame::new(size, colour, samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::cpu::CpuDevice;
    use crate::model::{Config, Stem};
    use crate::weights::Weights;

    const INPUT: Size = Size { width: 96, height: 96 };

    fn network(device: &dyn Device) -> EngineNetwork {
        let weights = Weights::seeded(Config::new(4, Stem::Half, 1, 1).unwrap(), 1).unwrap();
        EngineNetwork::load(&weights, device, INPUT).unwrap()
    }

    fn bench(source: Size) -> FrameBench {
        FrameBench::new(network(&CpuDevice::new(Some(1)).unwrap()), source).unwrap()
    }

    /// The bench must do the work of `segment`: its mask is the one that the pipeline gives the same frame.
    fn check_mask(device: &dyn Device, is_on_device: bool) {
        let source = Size { width: 100, height: 80 };
        let mut bench = FrameBench::new(network(device), source).unwrap();
        assert_eq!(bench.is_on_device(), is_on_device);
        let mut preparer = FramePreparer::new(source, Colour::Grey, INPUT).unwrap();
        let mut resize = BilinearResize::new(INPUT, source).unwrap();
        let mut again = network(device);
        // Frames 0 to 2 filled the window; frame 3 pushed out frame 0, and frame 4 frame 1.
        for window in [1..4, 2..5] {
            let (times, mask) = bench.frame().unwrap();
            assert_eq!(mask.size, source);
            let parts = times.prepare + times.engine.upload + times.engine.compute + times.engine.download + times.post;
            assert!(times.end_to_end >= parts, "{times:?}");
            let planes: Vec<Vec<f32>> = window
                .map(|number| {
                    let mut planes = vec![0.0; preparer.values()];
                    preparer.prepare(&frame(source, Colour::Grey, number).unwrap(), &mut planes).unwrap();
                    planes
                })
                .collect();
            let window: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
            let mut probability = vec![0.0; INPUT.area()];
            again.run(&window, &mut probability).unwrap();
            let map = to_source_size(&mut resize, &probability).unwrap();
            assert_eq!(mask, PostProcessing::default().mask(&map));
        }
    }

    #[test]
    fn the_mask_is_that_of_the_windows_middle_frame() {
        check_mask(&CpuDevice::new(Some(1)).unwrap(), false);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn the_mask_that_a_device_makes_by_itself_is_the_same() {
        use crate::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
        check_mask(&CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0])), true);
    }

    #[test]
    fn warm_up_is_not_counted_and_paced_frames_keep_their_distance() {
        let mut bench = bench(Size { width: 96, height: 96 });
        let mut asked = 0;
        let mut go_on = || {
            asked += 1;
            true
        };
        assert_eq!(bench.run(Mode::Warm, 2, 3, Duration::ZERO, &mut go_on).unwrap().len(), 3);
        assert_eq!(asked, 5);
        let begun = Instant::now();
        bench.run(Mode::Paced, 0, 3, Duration::from_millis(120), &mut || true).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(240));
        assert_eq!(bench.run(Mode::Flushed, 0, 1, Duration::ZERO, &mut || true).unwrap().len(), 1);
        let stopped = bench.run(Mode::Warm, 0, 1, Duration::ZERO, &mut || false);
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }

    #[test]
    fn every_step_has_a_time_and_its_work() {
        let mut bench = bench(Size { width: 96, height: 96 });
        let steps = bench.steps(2, &mut || true).unwrap();
        let program = bench.session().program();
        assert_eq!(steps.len(), program.steps().len());
        assert_eq!(steps.iter().map(|step| step.flops).sum::<u64>(), program.flops());
        assert!(steps.iter().all(|step| step.time > Duration::ZERO && step.bytes > 0));
    }
}
