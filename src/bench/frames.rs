//! A frame arrives, a mask leaves: the work, timed part by part.

use super::steps::{StepTime, medians};
use crate::device::Session;
use crate::device::cpu::last_level_cache;
use crate::error::{Error, Result};
use crate::media::{BilinearResize, Colour, Frame, FramePreparer, Mask, Size};
use crate::post::{PostProcessing, to_source_size};
use crate::segment::{EngineNetwork, EngineTimes, WindowNetwork, check_numbers};
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
    /// Resizing and scaling the frame.
    pub prepare: Duration,
    /// What the network took, and getting numbers to it and back.
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
    preparer: FramePreparer,
    clip: Vec<Frame>,
    /// Frames so far.
    count: usize,
    /// The window's frames as the network reads them, oldest first.
    window: VecDeque<Vec<f32>>,
    resize: BilinearResize,
    post: PostProcessing,
    probability: Vec<f32>,
    flusher: Vec<u64>,
}

impl FrameBench {
    /// For frames of `source` size, grey or coloured as the network reads them.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0.
    pub fn new(network: EngineNetwork, source: Size) -> Result<FrameBench> {
        let (colour, input) = (network.colour(), network.input_size());
        let mut preparer = FramePreparer::new(source, colour, input)?;
        let clip = (0..CLIP).map(|number| frame(source, colour, number)).collect::<Result<Vec<_>>>()?;
        let frames = 2 * network.neighbours() + 1;
        let prepared = (0..frames).map(|number| {
            let mut planes = vec![0.0; preparer.values()];
            preparer.prepare(&clip[number % CLIP], &mut planes)?;
            Ok(planes)
        });
        let window = prepared.collect::<Result<VecDeque<_>>>()?;
        Ok(FrameBench {
            network,
            preparer,
            clip,
            count: frames,
            window,
            resize: BilinearResize::new(input, source)?,
            post: PostProcessing::default(),
            probability: vec![0.0; input.area()],
            flusher: Vec::new(),
        })
    }

    /// One frame arrives; the mask of the window's middle one leaves.
    ///
    /// # Errors
    /// [`Error::Network`] when a probability is not a number, [`Error::Device`] when the device fails.
    pub fn frame(&mut self) -> Result<(FrameTimes, Mask)> {
        let begun = Instant::now();
        let mut planes = self.window.pop_front().unwrap_or_default();
        self.preparer.prepare(&self.clip[self.count % CLIP], &mut planes)?;
        self.window.push_back(planes);
        let prepare = begun.elapsed();
        let window: Vec<&[f32]> = self.window.iter().map(Vec::as_slice).collect();
        let engine = self.network.run_measured(&window, &mut self.probability)?;
        let computed = Instant::now();
        check_numbers(self.count, self.network.input_size(), &self.probability)?;
        let mask = self.post.mask(&to_source_size(&mut self.resize, &self.probability)?);
        self.count += 1;
        let times = FrameTimes { end_to_end: begun.elapsed(), prepare, engine, post: computed.elapsed() };
        Ok((times, mask))
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
        let mut times = Vec::with_capacity(frames);
        let mut due = Instant::now();
        for number in 0..warm_up + frames {
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

/// Stripes that move: no two neighbouring pixels or frames are the same.
fn frame(size: Size, colour: Colour, number: usize) -> Result<Frame> {
    let samples = (0..size.area()).flat_map(|at| {
        let (x, y) = ((at % size.width) as f32, (at / size.width) as f32);
        let grey = 128.0 + 70.0 * (0.05 * x + 0.8 * number as f32).sin() + 50.0 * (0.03 * y - 0.01 * x).cos();
        std::iter::repeat_n(grey as u8, colour.samples())
    });
    Frame::new(size, colour, samples.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::model::{Config, Stem};
    use crate::weights::Weights;

    fn bench(source: Size) -> FrameBench {
        let weights = Weights::seeded(Config::new(4, Stem::Half, 1, 1).unwrap(), 1).unwrap();
        let device = CpuDevice::new(Some(1)).unwrap();
        let network = EngineNetwork::load(&weights, &device, Size { width: 96, height: 96 }).unwrap();
        FrameBench::new(network, source).unwrap()
    }

    /// The bench must do the work of `segment`: its mask is the one that the pipeline gives the same frame.
    #[test]
    fn the_mask_is_that_of_the_windows_middle_frame() {
        let source = Size { width: 100, height: 80 };
        let mut bench = bench(source);
        let (times, mask) = bench.frame().unwrap();
        assert_eq!(mask.size, source);
        let parts = times.prepare + times.engine.upload + times.engine.compute + times.engine.download + times.post;
        assert!(times.end_to_end >= parts, "{times:?}");

        let mut again = self::bench(source);
        let mut preparer = FramePreparer::new(source, Colour::Grey, again.network.input_size()).unwrap();
        // Frames 0 to 2 filled the window; frame 3 pushed out frame 0.
        let planes: Vec<Vec<f32>> = (1..4)
            .map(|number| {
                let mut planes = vec![0.0; preparer.values()];
                preparer.prepare(&frame(source, Colour::Grey, number).unwrap(), &mut planes).unwrap();
                planes
            })
            .collect();
        let window: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
        let mut probability = vec![0.0; 96 * 96];
        again.network.run(&window, &mut probability).unwrap();
        let map = to_source_size(&mut again.resize, &probability).unwrap();
        assert_eq!(mask, PostProcessing::default().mask(&map));
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
