//! The kernels around the network, see `checks.rs`: on the emulated GPU under hostile schedules, and on a GPU where there
//! is one.
#![cfg(any(feature = "cuda", feature = "emulator"))]

mod checks;

use checks::CHECKS;
use coronet::device::cuda::Driver;
use std::sync::Arc;

#[test]
fn every_kernel_of_the_files_has_a_check() {
    let text = concat!(include_str!("../../kernels/frames.cu"), include_str!("../../kernels/components.cu"));
    for check in CHECKS {
        for kernel in check.kernels {
            assert!(text.contains(&format!(" {kernel}(")), "the files have no kernel {kernel}");
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
    use crate::checks::{Bench, COMPONENTS, EIGHT_BITS, FINITE, FrameCheck, MASKS, SIXTEEN_BITS, size};
    use coronet::device::GreySamples;
    use coronet::device::cuda::{EmulatedDriver, FramePipeline, Schedule};
    use coronet::post::PostProcessing;

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
    fn small_components_are_those_of_the_cpu_on_the_emulated_gpu() {
        on_every_schedule(&COMPONENTS);
    }

    #[test]
    fn a_probability_that_is_not_finite_is_an_error_with_its_place_on_the_emulated_gpu() {
        on_every_schedule(&FINITE);
    }

    #[test]
    fn frames_of_another_size_and_empty_sizes_are_refused() {
        let driver: Arc<dyn Driver> = Arc::new(EmulatedDriver::new(Schedule::ALL[0]));
        let mut bench = Bench::new(&driver, size(3, 2), size(4, 4), PostProcessing::default());
        let pipeline = bench.pipeline();
        let said = |result: coronet::Result<()>| result.unwrap_err().to_string();
        let problem = said(pipeline.take(0, GreySamples::Eight(&[0; 5])));
        assert_eq!(problem, "a frame of 5 samples was given where 3x2 is expected");
        let problem = said(pipeline.take(3, GreySamples::Eight(&[0; 6])));
        assert_eq!(problem, "there is no place 3 for a frame: a window has 3");
        assert_eq!(said(pipeline.start_window(&[0, 1])), "2 frames were given where a window has 3");
        assert_eq!(said(pipeline.start_window(&[0, 1, 3])), problem);
        assert!(bench.window().iter().flatten().all(|number| number.is_nan()));
        let thin = 1 << 20;
        for (source, target) in [(size(0, 2), size(1, 1)), (size(1, 1), size(4, 0)), (size(thin, 1), size(1, thin))] {
            assert!(!FramePipeline::fits(source, target), "{source} to {target}");
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
