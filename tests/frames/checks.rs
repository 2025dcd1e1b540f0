//! Frame to tensor and probability to mask by the kernels, against the CPU's pipeline, on whatever driver is given. They
//! panic where the two differ.

use coronet::device::cuda::{Address, Driver, FramePipeline, NetworkEnds};
use coronet::device::{GreySamples, NotFinite};
use coronet::media::{BilinearResize, Colour, Frame, FramePreparer, Mask, Size, open};
use coronet::post::{MinimumArea, PostProcessing, Threshold, remove_small_components, threshold, to_source_size};
use std::sync::Arc;

pub const fn size(width: usize, height: usize) -> Size {
    Size { width, height }
}

/// One comparison.
pub struct FrameCheck {
    /// What it launches.
    pub kernels: &'static [&'static str],
    pub run: fn(&Arc<dyn Driver>),
}

pub const CHECKS: [&FrameCheck; 5] = [&EIGHT_BITS, &SIXTEEN_BITS, &MASKS, &COMPONENTS, &FINITE];
pub const EIGHT_BITS: FrameCheck =
    FrameCheck { kernels: &["frame8_across", "frame_down", "gather_window"], run: check_eight_bit_frames };
pub const SIXTEEN_BITS: FrameCheck =
    FrameCheck { kernels: &["frame16_across", "frame_down", "gather_window"], run: check_sixteen_bit_frames };
pub const MASKS: FrameCheck = FrameCheck { kernels: MASK_KERNELS, run: check_masks };
pub const COMPONENTS: FrameCheck = FrameCheck {
    kernels: &["mask_down", "mask_runs", "unite_runs", "sum_areas", "clear_small"],
    run: check_components,
};
pub const FINITE: FrameCheck = FrameCheck { kernels: MASK_KERNELS, run: check_that_numbers_are_finite };

const MASK_KERNELS: &[&str] = &["first_not_finite", "probability_across", "mask_down"];

/// Frames and the network's input: single pixels, odd sides, one axis kept, grown or shrunk so far that an output has
/// each number of taps, and more pixels than a block has threads.
const SIZES: [(Size, Size); 12] = [
    (size(1, 1), size(1, 1)),
    (size(1, 1), size(5, 3)),
    (size(7, 5), size(1, 1)),
    (size(16, 16), size(16, 16)),
    (size(13, 9), size(32, 16)),
    (size(65, 33), size(32, 48)),
    (size(5, 40), size(5, 16)),
    (size(40, 5), size(16, 5)),
    (size(1, 37), size(9, 4)),
    (size(200, 3), size(7, 9)),
    (size(53, 2), size(16, 1)),
    (size(47, 31), size(48, 32)),
];

/// The CPU adds in the kernels' order where it has AVX2; elsewhere it rounds float64 sums of another order to float32.
fn same_order() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The last bit of a sample of 255, scaled as the network wants it, and the rounding of that.
const LAST_BIT: f32 = 5e-7;

/// Frames of a window.
const FRAMES: usize = 3;

/// Lanes of a pixel of a probability, of which only the first is one.
const LANES: usize = 8;

/// A pipeline, and memory for the network that is not there: a window, then a probability.
pub struct Bench {
    driver: Arc<dyn Driver>,
    pub pipeline: Option<FramePipeline>,
    memory: Address,
    network: Size,
}

impl Bench {
    pub fn new(driver: &Arc<dyn Driver>, source: Size, network: Size, post: PostProcessing) -> Bench {
        let numbers = (FRAMES + LANES) * network.area();
        let memory = driver.allocate(numbers * size_of::<f32>()).unwrap();
        // SAFETY: as many as were allocated.
        unsafe { driver.upload(memory, &vec![f32::NAN; numbers]) }.unwrap();
        let probability = memory.after(FRAMES * network.area());
        let ends = NetworkEnds { size: network, frames: FRAMES, window: memory, probability, lanes: LANES };
        // SAFETY: the memory has room for both, and is given back after the pipeline.
        let pipeline = unsafe { FramePipeline::new(driver, source, ends, &post) }.unwrap();
        Bench { driver: driver.clone(), pipeline: Some(pipeline), memory, network }
    }

    pub fn pipeline(&mut self) -> &mut FramePipeline {
        self.pipeline.as_mut().unwrap()
    }

    /// The planes of a window.
    pub fn window(&self) -> Vec<Vec<f32>> {
        let mut numbers = vec![0.0; FRAMES * self.network.area()];
        // SAFETY: the window's.
        unsafe { self.driver.download(self.memory, &mut numbers) }.unwrap();
        numbers.chunks_exact(self.network.area()).map(<[f32]>::to_vec).collect()
    }

    /// The mask of a probability; its other lanes are NaN, so that nobody can read them unseen.
    pub fn mask(&mut self, probability: &[f32]) -> Result<Mask, NotFinite> {
        assert_eq!(probability.len(), self.network.area());
        let lanes: Vec<f32> =
            probability.iter().flat_map(|&p| std::iter::once(p).chain([f32::NAN; LANES - 1])).collect();
        // SAFETY: behind the window there is room for it.
        unsafe { self.driver.upload(self.memory.after(FRAMES * self.network.area()), &lanes) }.unwrap();
        self.pipeline().start_mask().unwrap();
        self.pipeline().finish().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.pipeline = None;
        // SAFETY: allocated in `new`, and nothing runs any more.
        unsafe { self.driver.release(self.memory) }
    }
}

/// A pixel is vessel from this probability on, and components of fewer pixels go.
fn post(at: f32, minimum: usize) -> PostProcessing {
    PostProcessing { threshold: Threshold::new(at).unwrap(), minimum_area: MinimumArea::Pixels(minimum) }
}

/// Two frames after each other through all places: what is there later must be what came last.
fn planes_on_device(driver: &Arc<dyn Driver>, network: Size, frames: [(Size, GreySamples<'_>); 2]) -> [Vec<f32>; 2] {
    let mut bench = Bench::new(driver, frames[0].0, network, post(0.5, 0));
    let [first, second] = frames.map(|(_, samples)| samples);
    for (place, frame) in [(0, first), (1, first), (2, first), (1, second)] {
        bench.pipeline().take(place, frame).unwrap();
    }
    bench.pipeline().start_window(&[1, 0, 0]).unwrap();
    let [new, old, again] = bench.window().try_into().unwrap();
    assert_eq!(old, again);
    bench.pipeline().start_window(&[2, 2, 1]).unwrap();
    assert_eq!(bench.window(), [old.clone(), old.clone(), new.clone()]);
    [old, new]
}

fn plane_on_cpu(frame: &Frame, target: Size) -> Vec<f32> {
    let mut plane = vec![f32::NAN; target.area()];
    FramePreparer::new(frame.size(), Colour::Grey, target).unwrap().prepare(frame, &mut plane).unwrap();
    plane
}

fn assert_planes(got: &[f32], expected: &[f32], what: &str) {
    for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= LAST_BIT && !same_order();
        assert!(got.to_bits() == expected.to_bits() || near, "{what}, number {at}: {got:e}, on the CPU {expected:e}");
    }
}

/// Numbers without a pattern, each below 2^24.
fn noise(count: usize) -> impl Iterator<Item = u32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b1) >> 8)
}

fn check_eight_bit_frames(driver: &Arc<dyn Driver>) {
    for (source, target) in SIZES {
        let samples = [0, 1].map(|shift| noise(source.area()).map(|n| (n >> shift) as u8).collect::<Vec<u8>>());
        let frames = samples.each_ref().map(|samples| (source, GreySamples::Eight(samples)));
        for (got, samples) in planes_on_device(driver, target, frames).iter().zip(samples.clone()) {
            let frame = Frame::new(source, Colour::Grey, samples).unwrap();
            assert_planes(got, &plane_on_cpu(&frame, target), &format!("{source} to {target}"));
        }
    }
}

/// The CPU's way starts at a file here: its reader is what narrows 16 bits.
fn check_sixteen_bit_frames(driver: &Arc<dyn Driver>) {
    let folder = tempfile::tempdir().unwrap();
    for (source, target) in SIZES {
        // The ends of the range and both sides of a rounding first.
        let edges = [65535, 0, 128, 129, 257, 65535 - 128, 65535 - 129];
        let samples: Vec<u16> = edges.into_iter().chain(noise(source.area()).map(|n| n as u16)).collect();
        let samples = &samples[..source.area()];
        let mut file = format!("P5\n{} {}\n65535\n", source.width, source.height).into_bytes();
        file.extend(samples.iter().flat_map(|sample| sample.to_be_bytes()));
        let path = folder.path().join("frame.pgm");
        std::fs::write(&path, file).unwrap();
        let frame = open(&path).unwrap().next_frame().unwrap().unwrap();
        let zeros = vec![0; source.area()];
        let frames = [&zeros, samples].map(|samples| (source, GreySamples::Sixteen(samples)));
        let [_, got] = planes_on_device(driver, target, frames);
        assert_planes(&got, &plane_on_cpu(&frame, target), &format!("{source} to {target}"));
    }
}

fn probability_of(size: Size, shift: u32) -> Vec<f32> {
    noise(size.area()).map(|n| (n << shift & 0xff_ffff) as f32 / (1 << 24) as f32).collect()
}

fn check_masks(driver: &Arc<dyn Driver>) {
    for (source, target) in SIZES {
        let probabilities = [0, 3].map(|shift| probability_of(target, shift));
        let maps = probabilities
            .each_ref()
            .map(|p| to_source_size(&mut BilinearResize::new(target, source).unwrap(), p).unwrap());
        // The last threshold is one that a pixel meets exactly.
        for at in [1.0, 0.0, 0.5, maps[0].values[source.area() / 2]] {
            // One pipeline for both: what a mask leaves behind must not show in the next.
            let mut bench = Bench::new(driver, source, target, post(at, 0));
            for (probability, map) in probabilities.iter().zip(&maps) {
                let got = bench.mask(probability).unwrap();
                let expected = threshold(map, Threshold::new(at).unwrap());
                assert_eq!(got.size, expected.size);
                for (i, (&got, &expected)) in got.pixels.iter().zip(&expected.pixels).enumerate() {
                    let near = (map.values[i] - at).abs() <= f32::EPSILON && !same_order();
                    assert!(got == expected || near, "{target} to {source} at {at}, pixel {i}: {got}");
                }
            }
        }
    }
}

/// What is drawn with `#`.
fn drawn(rows: &[&str]) -> (Size, Vec<bool>) {
    (size(rows[0].len(), rows.len()), rows.iter().flat_map(|row| row.bytes().map(|b| b == b'#')).collect())
}

/// A band one pixel wide that winds inwards, with one pixel between its turns.
fn spiral(side: usize) -> (Size, Vec<bool>) {
    let (mut pixels, mut at, mut step) = (vec![false; side * side], (0i32, 0i32), (1i32, 0i32));
    let is_set = |pixels: &[bool], (x, y): (i32, i32)| {
        (0..side as i32).contains(&x) && (0..side as i32).contains(&y) && pixels[(y * side as i32 + x) as usize]
    };
    let inside = |(x, y): (i32, i32)| (0..side as i32).contains(&x) && (0..side as i32).contains(&y);
    let mut turns = 0;
    while turns < 2 {
        pixels[(at.1 * side as i32 + at.0) as usize] = true;
        let next = |distance: i32| (at.0 + distance * step.0, at.1 + distance * step.1);
        if inside(next(1)) && !is_set(&pixels, next(1)) && !is_set(&pixels, next(2)) {
            at = next(1);
            turns = 0;
        } else {
            step = (-step.1, step.0);
            turns += 1;
        }
    }
    (size(side, side), pixels)
}

/// Vessel with a share of 1 / 2^`bits`.
fn scattered(size: Size, bits: u32) -> (Size, Vec<bool>) {
    (size, noise(size.area()).map(|n| n >> 3 & ((1 << bits) - 1) == 0).collect())
}

/// The probability that is 1 in vessels becomes the mask that the CPU makes, for minima on both sides of each area.
fn check_components(driver: &Arc<dyn Driver>) {
    // Runs and rows that end within a warp's 32 pixels and at their edge, and what only meets late or at corners.
    let u = drawn(&["#...#.#", "#...#.#", "#####.#", "......#", "#######"]);
    let diagonals = drawn(&["#......#", ".#....#.", "..#..#..", "...#....", "#.......", ".#.#.#.#"]);
    let comb = (size(67, 5), (0..67 * 5).map(|i| i % 67 % 2 == 0 || i / 67 == 4).collect());
    let column = (size(3, 70), (0..210).map(|i| i % 3 == 1).collect());
    let pixels = [(size(1, 1), vec![true]), (size(1, 1), vec![false])];
    let whole = [true, false].map(|vessel| (size(50, 23), vec![vessel; 50 * 23]));
    let rows = [(size(100, 1), vec![true; 100]), (size(1, 100), vec![true; 100])];
    let random = [(40, 33, 1), (64, 20, 2), (31, 31, 1), (33, 12, 2), (96, 40, 1), (5, 90, 1)];
    let random = random.map(|(width, height, bits)| scattered(size(width, height), bits));
    let masks = [u, diagonals, comb, column, spiral(9), spiral(41)].into_iter();
    for (size, vessel) in masks.chain(pixels).chain(whole).chain(rows).chain(random) {
        let probability: Vec<f32> = vessel.iter().map(|&vessel| f32::from(u8::from(vessel))).collect();
        let drawn = Mask { size, pixels: vessel.iter().map(|&vessel| if vessel { 255 } else { 0 }).collect() };
        let all = drawn.vessel_pixels();
        for minimum in [2, 3, 6, all, all + 1, usize::MAX] {
            let mut bench = Bench::new(driver, size, size, post(0.5, minimum));
            let mut expected = drawn.clone();
            remove_small_components(&mut expected, minimum);
            // Twice: what the first leaves behind must not show in the second.
            for _ in 0..2 {
                let got = bench.mask(&probability).unwrap();
                assert!(got == expected, "{size}, minimum {minimum}: {}", with_rows(&got));
            }
        }
    }
}

fn with_rows(mask: &Mask) -> String {
    let row = |row: &[u8]| row.iter().map(|&pixel| if pixel == 255 { '#' } else { '.' }).chain(['\n']).collect();
    std::iter::once("\n".to_owned()).chain(mask.pixels.chunks(mask.size.width).map(row)).collect()
}

fn check_that_numbers_are_finite(driver: &Arc<dyn Driver>) {
    // Two blocks look at 2048 pixels each, a third at what is left.
    let (source, target) = (size(13, 9), size(96, 48));
    let mut bench = Bench::new(driver, source, target, post(0.25, 0));
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 255, 256, 2047, 2048, 4607] {
            let mut probability = vec![0.25; target.area()];
            probability[4607] = f32::NAN;
            probability[at] = wrong;
            let found = bench.mask(&probability).unwrap_err();
            assert_eq!((found.at, found.number.to_bits()), (at, wrong.to_bits()));
        }
    }
    assert_eq!(bench.mask(&[0.25; 96 * 48]).unwrap().pixels, [255; 13 * 9]);
}
