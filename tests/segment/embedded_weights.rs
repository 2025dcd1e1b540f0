//! What the weights in the box are worth: the masks of a phantom clip that they have never seen are the vessels, and a GPU that
//! multiplies in float16 makes the same.

use coronet::device::cpu::{BfloatSet, CpuDevice};
use coronet::device::{Device, Precision};
use coronet::media::{Colour, FramePreparer, Mask, ProbabilityMap, Size};
use coronet::metrics::{Agreement, Counts};
use coronet::phantom::{Phantom, Preset, Settings};
use coronet::post::PostProcessing;
use coronet::segment::{EngineNetwork, WindowNetwork};
use coronet::weights::Weights;

/// Clips of the reference and moments of each, in seconds since the injection began. Seed 1 draws the demo's clip.
const CLIPS: usize = 4;
const MOMENTS: [f64; 3] = [0.8, 1.6, 2.6];

/// The network of the box for frames of a size, and what goes in and comes out.
struct Segmenter {
    network: EngineNetwork,
    preparer: FramePreparer,
    size: Size,
}

impl Segmenter {
    fn new(device: &dyn Device, size: Size) -> Segmenter {
        let network = EngineNetwork::load(&Weights::embedded().unwrap(), device, size).unwrap();
        Segmenter { network, preparer: FramePreparer::new(size, Colour::Grey, size).unwrap(), size }
    }

    /// The mask that it finds in the middle one of a clip's first three frames, and the true one.
    fn masks(&mut self, phantom: &Phantom) -> [Mask; 2] {
        let drawn: Vec<_> = (0..3).map(|i| phantom.frame(i).unwrap()).collect();
        let prepared = drawn.iter().map(|drawn| {
            let mut planes = vec![0.0; self.preparer.values()];
            self.preparer.prepare(&drawn.frame, &mut planes).unwrap();
            planes
        });
        let window: Vec<Vec<f32>> = prepared.collect();
        let mut values = vec![0.0; self.size.area()];
        self.network.run(&window.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut values).unwrap();
        let found = PostProcessing::default().mask(&ProbabilityMap { size: self.size, values });
        [found, drawn[1].mask.clone()]
    }
}

fn clip(clip: usize, start_seconds: f64, size: Size) -> Phantom {
    Phantom::new(Settings { size, start_seconds, frames: 3, ..Preset::Reference.settings(1, clip) }).unwrap()
}

#[test]
fn a_network_says_in_what_it_multiplies() {
    let cpu = CpuDevice::new(Some(1)).unwrap().with_bfloat(BfloatSet::Portable).unwrap();
    for precision in cpu.precisions() {
        let device = cpu.with_precision(precision).unwrap();
        let described = Segmenter::new(&*device, Size { width: 96, height: 96 }).network.describe();
        assert_eq!(described["precision"], precision.name());
    }
    assert_eq!(cpu.precisions(), [Precision::Float32, Precision::BFloat16]);
}

#[test]
fn the_embedded_weights_find_the_vessels_of_the_reference() {
    let size = Size { width: 448, height: 448 };
    let mut segmenter = Segmenter::new(&CpuDevice::new(None).unwrap(), size);
    let mut counts = Vec::new();
    for index in 0..CLIPS {
        for start_seconds in MOMENTS {
            let [found, truth] = segmenter.masks(&clip(index, start_seconds, size));
            counts.push(Counts::of(&found, &truth).unwrap());
        }
    }
    let agreement = Agreement::over(&counts).unwrap();
    println!("Dice {:.3} pooled, {:.3} mean", agreement.pooled.dice, agreement.mean.dice);
    assert!(agreement.pooled.dice >= 0.88 && agreement.mean.dice >= 0.88, "{agreement:?}");
}

#[test]
fn in_bfloat16_the_embedded_weights_make_all_but_the_masks_of_float32() {
    let size = Size { width: 448, height: 448 };
    let clip = clip(1, 1.6, size);
    let cpu = CpuDevice::new(None).unwrap();
    let [exact, truth] = Segmenter::new(&cpu, size).masks(&clip);
    let dice = |a: &Mask, b: &Mask| Agreement::over(&[Counts::of(a, b).unwrap()]).unwrap().pooled.dice;
    let found = dice(&exact, &truth);
    assert!(found > 0.5, "too little is found for a comparison: {found}");
    for set in BfloatSet::available() {
        let device = cpu.clone().with_bfloat(set).unwrap().with_precision(Precision::BFloat16).unwrap();
        let [rounded, _] = Segmenter::new(&*device, size).masks(&clip);
        let agreement = dice(&rounded, &exact);
        println!("{}: Dice {agreement:.5} against float32, which has {found:.3}", set.name());
        assert!(agreement >= 0.995, "{}: {agreement}", set.name());
    }
}

#[cfg(feature = "emulator")]
#[test]
fn in_float16_the_embedded_weights_make_the_masks_of_float32() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    // A quarter of the pixels: the emulated GPU takes its time.
    let size = Size { width: 224, height: 224 };
    let gpu = CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0])).with_precision(Precision::Float16).unwrap();
    let clip = clip(0, 1.6, size);
    let [exact, truth] = Segmenter::new(&CpuDevice::new(None).unwrap(), size).masks(&clip);
    let [rounded, _] = Segmenter::new(&*gpu, size).masks(&clip);
    let dice = |a: &Mask, b: &Mask| Agreement::over(&[Counts::of(a, b).unwrap()]).unwrap().pooled.dice;
    let (agreement, found) = (dice(&rounded, &exact), dice(&exact, &truth));
    println!("Dice {agreement:.5} against float32, which has {found:.3}");
    assert!(found > 0.5, "too little is found for a comparison: {found}");
    assert!(agreement >= 0.999, "{agreement}");
}
