//! Frame to tensor and probability to mask by the kernels, against the CPU's pipeline, on whatever driver is given. They
//! panic where the two differ.

use coronet::device::cuda::{Address, Driver, FramePipeline, GreySamples};
use coronet::media::{BilinearResize, Colour, Frame, FramePreparer, Mask, Size, open};
use coronet::post::{Threshold, threshold, to_source_size};
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

pub const CHECKS: [&FrameCheck; 4] = [&EIGHT_BITS, &SIXTEEN_BITS, &MASKS, &FINITE];
pub const EIGHT_BITS: FrameCheck =
    FrameCheck { kernels: &["frame8_across", "frame_down"], run: check_eight_bit_frames };
pub const SIXTEEN_BITS: FrameCheck =
    FrameCheck { kernels: &["frame16_across", "frame_down"], run: check_sixteen_bit_frames };
pub const MASKS: FrameCheck = FrameCheck { kernels: MASK_KERNELS, run: check_masks };
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

/// A pipeline, and memory for what goes in and comes out, of `numbers` numbers.
pub struct Bench {
    driver: Arc<dyn Driver>,
    pub pipeline: FramePipeline,
    pub memory: Address,
    numbers: usize,
}

impl Bench {
    pub fn new(driver: &Arc<dyn Driver>, source: Size, target: Size, numbers: usize) -> Bench {
        let pipeline = FramePipeline::new(driver, source, target).unwrap();
        let memory = driver.allocate(numbers * size_of::<f32>()).unwrap();
        let bench = Bench { driver: driver.clone(), pipeline, memory, numbers };
        bench.write(&vec![f32::NAN; numbers]);
        bench
    }

    fn write(&self, numbers: &[f32]) {
        assert_eq!(numbers.len(), self.numbers);
        // SAFETY: as many as were allocated.
        unsafe { self.driver.upload(self.memory, numbers) }.unwrap();
    }

    pub fn read(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.numbers];
        // SAFETY: as many as were allocated.
        unsafe { self.driver.download(self.memory, &mut numbers) }.unwrap();
        numbers
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.driver.synchronise().unwrap();
        // SAFETY: allocated in `new`, and nothing runs any more.
        unsafe { self.driver.release(self.memory) }
    }
}

fn plane_on_device(driver: &Arc<dyn Driver>, source: Size, target: Size, frame: GreySamples<'_>) -> Vec<f32> {
    let mut bench = Bench::new(driver, source, target, target.area());
    // SAFETY: the memory has the target's numbers.
    unsafe { bench.pipeline.prepare(frame, bench.memory) }.unwrap();
    bench.read()
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
        let samples: Vec<u8> = noise(source.area()).map(|n| n as u8).collect();
        let frame = Frame::new(source, Colour::Grey, samples.clone()).unwrap();
        let got = plane_on_device(driver, source, target, GreySamples::Eight(&samples));
        assert_planes(&got, &plane_on_cpu(&frame, target), &format!("{source} to {target}"));
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
        let got = plane_on_device(driver, source, target, GreySamples::Sixteen(samples));
        assert_planes(&got, &plane_on_cpu(&frame, target), &format!("{source} to {target}"));
    }
}

/// Lanes of a pixel of a probability, of which only the first is one.
const LANES: usize = 8;

/// Probabilities as the device has them: the other lanes are NaN, so that nobody can read them unseen.
fn in_lanes(probability: &[f32]) -> Vec<f32> {
    probability.iter().flat_map(|&p| std::iter::once(p).chain([f32::NAN; LANES - 1])).collect()
}

fn mask_on_device(bench: &mut Bench, probability: &[f32], at: f32) -> coronet::Result<Mask> {
    bench.write(&in_lanes(probability));
    // SAFETY: the memory has the network's pixels, all lanes.
    unsafe { bench.pipeline.mask(bench.memory, LANES, Threshold::new(at).unwrap()) }
}

fn check_masks(driver: &Arc<dyn Driver>) {
    for (source, target) in SIZES {
        let probability: Vec<f32> = noise(target.area()).map(|n| n as f32 / (1 << 24) as f32).collect();
        let map = to_source_size(&mut BilinearResize::new(target, source).unwrap(), &probability).unwrap();
        // One pipeline for all: what a mask leaves behind must not show in the next.
        let mut bench = Bench::new(driver, source, target, LANES * target.area());
        // The last threshold is one that a pixel meets exactly.
        for at in [1.0, 0.0, 0.5, map.values[map.values.len() / 2]] {
            let got = mask_on_device(&mut bench, &probability, at).unwrap();
            let expected = threshold(&map, Threshold::new(at).unwrap());
            assert_eq!(got.size, expected.size);
            for (i, (&got, &expected)) in got.pixels.iter().zip(&expected.pixels).enumerate() {
                let near = (map.values[i] - at).abs() <= f32::EPSILON && !same_order();
                assert!(got == expected || near, "{target} to {source} at {at}, pixel {i}: {got}");
            }
        }
    }
}

fn check_that_numbers_are_finite(driver: &Arc<dyn Driver>) {
    // Two blocks look at 2048 pixels each, a third at what is left.
    let (source, target) = (size(13, 9), size(96, 48));
    let mut bench = Bench::new(driver, source, target, LANES * target.area());
    for (wrong, called) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity"), (f32::NEG_INFINITY, "infinity")] {
        for at in [0, 255, 256, 2047, 2048, 4607] {
            let mut probability = vec![0.25; target.area()];
            probability[4607] = f32::NAN;
            probability[at] = wrong;
            let problem = mask_on_device(&mut bench, &probability, 0.5).unwrap_err().to_string();
            let place = format!("column {}, row {}", at % 96, at / 96);
            assert_eq!(problem, format!("the network produced {called} at {place}; check its weights"));
        }
    }
    assert_eq!(mask_on_device(&mut bench, &[0.25; 96 * 48], 0.25).unwrap().pixels, [255; 13 * 9]);
}
