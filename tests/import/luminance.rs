//! A folded first layer computes from a grey frame what the unfolded one does from the same frame shown as RGB.

use super::writer::State;
use coronet::device::Device;
use coronet::device::cpu::CpuDevice;
use coronet::model::{CeNet, Config, Stem};
use coronet::program::{Placement, Program};
use coronet::weights::Weights;
use coronet::weights::import::{ImportOptions, import};

const SIDE: usize = 96;

fn probability(weights: &Weights, window: &[f32]) -> Vec<f32> {
    let network = CeNet::build(weights.config(), 1, SIDE, SIDE).unwrap();
    let device = CpuDevice::new(Some(1)).unwrap();
    let program = Program::lower(&network.graph, &[network.probability], &device, Placement::Shared).unwrap();
    let mut session = device.load(program).unwrap();
    weights.write_into(&network, |id, numbers| session.write(id, numbers)).unwrap();
    session.write(network.window, window).unwrap();
    session.run().unwrap();
    session.read(network.probability).unwrap().into_data()
}

#[test]
fn grey_as_rgb_and_grey_give_the_same_probabilities() {
    let colour = Weights::seeded(Config::new(4, Stem::Half, 1, 3).unwrap(), 9).unwrap();
    let mut state = State::default();
    for (name, tensor) in colour.iter() {
        state.add(name, &tensor.shape().dims(), tensor.data());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rgb.pth");
    std::fs::write(&path, state.zip()).unwrap();
    let grey = import(&path, &ImportOptions { luminance: true, ..Default::default() }).unwrap().weights;
    assert_eq!(grey.config(), Config::new(4, Stem::Half, 1, 1).unwrap());

    let frames: Vec<f32> = (0..3 * SIDE * SIDE).map(|i| (i * 37 % 256) as f32 / 255.0 * 3.2 - 1.6).collect();
    let of_rgb = probability(&colour, &frames.repeat(3));
    let of_grey = probability(&grey, &frames);
    // NaN is no small difference.
    let differ = of_rgb.iter().zip(&of_grey).find(|(a, b)| (*a - *b).abs() >= 2e-5 || (*a - *b).is_nan());
    assert_eq!((differ, of_rgb.len()), (None, of_grey.len()));
    let spread = |p: &[f32]| p.iter().fold(0f32, |m, &x| m.max(x)) - p.iter().fold(1f32, |m, &x| m.min(x));
    assert!(spread(&of_grey) > 0.05, "a network that says the same everywhere would prove nothing");
}
