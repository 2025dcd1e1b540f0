//! The kernels around the network, see `checks.rs`, and whole clips with the network between them, see `clips.rs`: on the emulated GPU under hostile schedules, and on a GPU where there
//! is one.
#![cfg(any(feature = "cuda", feature = "emulator"))]

mod checks;
#[cfg_attr(coronet_checked, allow(dead_code))] // most of it is left out there
mod clips;

use checks::CHECKS;
use coronet::device::cuda::{CudaDevice, Driver};
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
    use coronet::device::cpu::CpuDevice;
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

    fn device() -> CudaDevice {
        CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0]))
    }

    #[cfg(not(coronet_checked))] // the checked build would take minutes
    #[test]
    fn clips_have_the_masks_and_probabilities_that_the_host_makes_on_the_emulated_gpu() {
        clips::check_clips(&device());
    }

    #[cfg(not(coronet_checked))] // as above
    #[test]
    fn a_second_clip_finds_nothing_of_the_first_on_the_emulated_gpu() {
        clips::check_clips_after_another(&device());
    }

    #[cfg(not(coronet_checked))] // as above
    #[test]
    fn streams_have_the_masks_that_the_host_makes_on_the_emulated_gpu() {
        clips::check_streams(&device());
    }

    #[test]
    fn what_goes_wrong_is_said_in_the_hosts_words_on_the_emulated_gpu() {
        clips::check_errors(&device());
    }

    #[test]
    fn the_cpu_and_a_network_that_reads_colours_leave_the_frames_to_the_host() {
        assert!(clips::is_on_device(&device(), 1) && !clips::is_on_device(&device(), 3));
        assert!(!clips::is_on_device(&CpuDevice::new(Some(1)).unwrap(), 1));
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
fn gpu() -> Option<coronet::device::cuda::Gpu> {
    coronet::device::cuda::Gpu::new(0).map_err(|error| println!("skipped: {error}")).ok()
}

#[cfg(feature = "cuda")]
#[test]
fn frames_and_masks_are_those_of_the_cpu_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    let driver: Arc<dyn Driver> = Arc::new(gpu);
    CHECKS.iter().for_each(|check| (check.run)(&driver));
}

#[cfg(feature = "cuda")]
#[test]
fn clips_and_streams_have_the_masks_that_the_host_makes_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    let device = CudaDevice::new(gpu);
    assert!(clips::is_on_device(&device, 1));
    clips::check_clips(&device);
    clips::check_clips_after_another(&device);
    clips::check_streams(&device);
    clips::check_errors(&device);
}
