//! What the weights in the box are worth: the masks of a phantom clip that they have never seen are the vessels.

use coronet::device::cpu::CpuDevice;
use coronet::media::{Colour, FramePreparer, ProbabilityMap, Size};
use coronet::metrics::{Agreement, Counts};
use coronet::phantom::{Phantom, Preset, Settings};
use coronet::post::PostProcessing;
use coronet::segment::{EngineNetwork, WindowNetwork};
use coronet::weights::Weights;

/// Clips of the reference and moments of each, in seconds since the injection began. Seed 1 draws the demo's clip.
const CLIPS: usize = 4;
const MOMENTS: [f64; 3] = [0.8, 1.6, 2.6];

#[test]
fn the_embedded_weights_find_the_vessels_of_the_reference() {
    let size = Size { width: 448, height: 448 };
    let device = CpuDevice::new(None).unwrap();
    let mut network = EngineNetwork::load(&Weights::embedded().unwrap(), &device, size).unwrap();
    let mut preparer = FramePreparer::new(size, Colour::Grey, size).unwrap();
    let mut counts = Vec::new();
    for clip in 0..CLIPS {
        for start_seconds in MOMENTS {
            let settings = Settings { size, start_seconds, frames: 3, ..Preset::Reference.settings(1, clip) };
            let phantom = Phantom::new(settings).unwrap();
            let drawn: Vec<_> = (0..3).map(|i| phantom.frame(i).unwrap()).collect();
            let prepared = drawn.iter().map(|drawn| {
                let mut planes = vec![0.0; preparer.values()];
                preparer.prepare(&drawn.frame, &mut planes).unwrap();
                planes
            });
            let window: Vec<Vec<f32>> = prepared.collect();
            let mut values = vec![0.0; size.area()];
            network.run(&window.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut values).unwrap();
            let mask = PostProcessing::default().mask(&ProbabilityMap { size, values });
            counts.push(Counts::of(&mask, &drawn[1].mask).unwrap());
        }
    }
    let agreement = Agreement::over(&counts).unwrap();
    println!("Dice {:.3} pooled, {:.3} mean", agreement.pooled.dice, agreement.mean.dice);
    assert!(agreement.pooled.dice >= 0.88 && agreement.mean.dice >= 0.88, "{agreement:?}");
}
