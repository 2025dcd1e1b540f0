//! The kernels around the network, see `checks.rs`: on the emulated GPU under hostile schedules, and on a GPU where there
//! is one.
#![cfg(any(feature = "cuda", feature = "emulator"))]

mod checks;

use checks::CHECKS;
use coronet::device::cuda::Driver;
use std::sync::Arc;

#[test]
fn every_kernel_of_the_file_has_a_check() {
    let text = include_str!("../../kernels/frames.cu");
    for check in CHECKS {
        for kernel in check.kernels {
            assert!(text.contains(&format!(" {kernel}(")), "frames.cu has no kernel {kernel}");
        }
    }
    let kernels = text.matches("extern \"C\" __global__").count();
    let mut checked = CHECKS.map(|check| check.kernels).concat();
    checked.sort_unstable();
    checked.dedup();
    assert_eq!(checked.len(), kernels);
}

#[cfg(feature = "emulator")]
mod emulated {
    use super::*;
    use crate::checks::{Bench, EIGHT_BITS, FINITE, FrameCheck, MASKS, SIXTEEN_BITS, size};
    use coronet::device::cuda::{EmulatedDriver, FramePipeline, GreySamples, Schedule};

    fn on_every_schedule(check: &FrameCheck) {
        for schedule in Schedule::ALL {
            println!("{schedule:?}");
            let driver: Arc<dyn Driver> = Arc::new(EmulatedDriver::new(schedule));
            (check.run)(&driver);
        }
    }

    #[test]
    fn eight_bit_frames_become_the_planes_of_the_cpu_on_the_emulated_gpu() {
        on_every_schedule(&EIGHT_BITS);
    }

    #[test]
    fn sixteen_bit_frames_become_the_planes_of_the_cpu_on_the_emulated_gpu() {
        on_every_schedule(&SIXTEEN_BITS);
    }

    #[test]
    fn probabilities_become_the_masks_of_the_cpu_on_the_emulated_gpu() {
        on_every_schedule(&MASKS);
    }

    #[test]
    fn a_probability_that_is_not_finite_is_an_error_with_its_place_on_the_emulated_gpu() {
        on_every_schedule(&FINITE);
    }

    #[test]
    fn frames_of_another_size_and_empty_sizes_are_refused() {
        let driver: Arc<dyn Driver> = Arc::new(EmulatedDriver::new(Schedule::ALL[0]));
        let mut bench = Bench::new(&driver, size(3, 2), size(4, 4), 16);
        // SAFETY: the memory has the target's numbers.
        let problem = unsafe { bench.pipeline.prepare(GreySamples::Eight(&[0; 5]), bench.memory) }.unwrap_err();
        assert_eq!(problem.to_string(), "a frame of 5 samples was given where 3x2 is expected");
        assert!(bench.read().iter().all(|number| number.is_nan()));
        let thin = 1 << 20;
        for (source, target) in [(size(0, 2), size(1, 1)), (size(1, 1), size(4, 0)), (size(thin, 1), size(1, thin))] {
            assert!(FramePipeline::new(&driver, source, target).is_err(), "{source} to {target}");
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn frames_and_masks_are_those_of_the_cpu_on_a_gpu() {
    let driver: Arc<dyn Driver> = match coronet::device::cuda::Gpu::new(0) {
        Ok(gpu) => Arc::new(gpu),
        Err(error) => return println!("skipped: {error}"),
    };
    CHECKS.iter().for_each(|check| (check.run)(&driver));
}
