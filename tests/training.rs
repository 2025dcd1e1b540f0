//! Training steps: the optimisers against numbers from elsewhere, the terms of the loss, what is refused.

use coronet::device::Device;
use coronet::device::cpu::CpuDevice;
use coronet::graph::{Graph, Shape, ValueId};
use coronet::model::{CeNet, Config, Objective, Optimizer, Stem, TrainingStep};
use coronet::ops::AdamW;
use coronet::program::{Placement, Program};
use coronet::weights::Weights;

const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9 };
const ADAMW: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };

/// A small network for one frame of 96x96.
fn network() -> CeNet {
    CeNet::build(Config::new(4, Stem::Half, 0, 1).unwrap(), 1, 96, 96).unwrap()
}

// Six random numbers and five random gradients, the last of which are tiny; the numbers after each step, with rate 0.01
// and the constants of `ADAMW`, by NumPy in float64 in the order of torch.optim.AdamW's single-tensor step. tinygrad
// 0.14's AdamW, in float32, agrees to 1.4e-7.
const START: [f32; 6] = [0.001, 0.299, -0.274, -0.891, -0.455, -0.992];
const GRADIENTS: [[f32; 6]; 5] = [
    [0.06, 1.34, -0.492, -0.62, 0.49, 3.57e-5],
    [0.105, -0.93, -0.029, 0.695, -1.344, -4.58e-5],
    [-1.901, -1.29, -1.842, -0.235, -1.267, 2.71e-5],
    [0.157, -0.187, -2.517, -0.539, -0.049, 1.13e-5],
    [-1.53, -0.478, -0.979, -0.809, 1.061, -8.08e-5],
];
const STEPS: [[f64; 6]; 5] = [
    [-0.00900099806, 0.288700995, -0.263725989, -0.880108973, -0.464545013, -1.00100518],
    [-0.0187768743, 0.287152711, -0.256335227, -0.880323712, -0.459382966, -0.998252535],
    [-0.0128627382, 0.290066855, -0.248484767, -0.878700021, -0.451969149, -0.998729779],
    [-0.00851468653, 0.292909526, -0.239848174, -0.874444086, -0.445673322, -0.999931141],
    [-0.00223568837, 0.296416578, -0.231220483, -0.868038063, -0.443560139, -0.995846479],
];
const FIRST_MOMENT: [f64; 6] = [-0.281259959, -0.148999628, -0.508026319, -0.13845773, -0.0667657017, -5.86444508e-06];
const SECOND_MOMENT: [f64; 6] =
    [0.00598660196, 0.00457486902, 0.0109153713, 0.0018642442, 0.00477020162, 1.07497595e-11];

fn check_steps_of_adamw(device: &dyn Device) {
    let Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } = ADAMW else { unreachable!() };
    let mut graph = Graph::new();
    let shape = Shape::Channels { channels: 6 };
    let states = ["w", "m", "v"].map(|name| graph.state(name, shape));
    let gradient = graph.input("g", shape);
    let scalars = ["rate", "correction1", "correction2"].map(|name| graph.input(name, Shape::Scalar));
    let inputs = [&states[..], &[gradient], &scalars].concat();
    let stepped = graph.apply("adamw", AdamW { beta1, beta2, epsilon, weight_decay }, &inputs).unwrap();
    states.iter().zip(stepped).for_each(|(&old, new)| graph.update(old, new).unwrap());
    let program = Program::lower(&graph, &states, device, Placement::Shared).unwrap();
    let mut session = device.load(program).unwrap();
    session.write(states[0], &START).unwrap();
    let close = |got: &[f32], expected: &[f64]| {
        got.iter().zip(expected).for_each(|(&got, &expected)| {
            approx::assert_relative_eq!(f64::from(got), expected, max_relative = 1e-5, epsilon = 1e-13);
        });
    };
    for ((step, g), expected) in (1..).zip(GRADIENTS).zip(STEPS) {
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(step)) as f32;
        session.write(gradient, &g).unwrap();
        for (id, number) in scalars.iter().zip([0.01, correction(beta1), correction(beta2)]) {
            session.write(*id, &[number]).unwrap();
        }
        session.run().unwrap();
        close(session.read(states[0]).unwrap().data(), &expected);
    }
    close(session.read(states[1]).unwrap().data(), &FIRST_MOMENT);
    close(session.read(states[2]).unwrap().data(), &SECOND_MOMENT);
}

#[test]
fn five_steps_of_adamw_give_the_numbers_of_other_implementations() {
    check_steps_of_adamw(&CpuDevice::new(Some(1)).unwrap());
}

#[cfg(feature = "emulator")]
#[test]
fn five_steps_of_adamw_give_the_numbers_of_other_implementations_on_the_emulated_gpu() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    check_steps_of_adamw(&CudaDevice::new(EmulatedDriver::new(Schedule::ALL[2])));
}

#[test]
fn the_schedule_is_the_rate_and_the_corrections_of_a_step() {
    let written = |optimizer, step| {
        let built = TrainingStep::build(network(), Objective::default(), optimizer).unwrap();
        let name = |id: ValueId| built.network.graph.value(id).name.clone();
        let mut written = Vec::new();
        let wrote = built.write_schedule(step, 0.25, |id, numbers| {
            written.push((name(id), numbers.to_vec()));
            Ok(())
        });
        wrote.map(|()| written).map_err(|error| error.to_string())
    };
    let entry = |name: &str, number: f64| (name.to_owned(), vec![number as f32]);
    assert_eq!(written(SGD, 3).unwrap(), [entry("rate", 0.25)]);
    let (beta1, beta2) = (f64::from(0.9f32), f64::from(0.999f32));
    let third = [
        entry("rate", 0.25),
        entry("correction1", 1.0 - beta1 * beta1 * beta1),
        entry("correction2", 1.0 - beta2 * beta2 * beta2),
    ];
    assert_eq!(written(ADAMW, 3).unwrap(), third);
    assert_eq!(written(ADAMW, u64::MAX).unwrap()[1..], [entry("correction1", 1.0), entry("correction2", 1.0)]);
    assert_eq!(written(ADAMW, 0).unwrap_err(), "the steps of training are counted from 1");
}

#[test]
fn what_adamw_cannot_do_is_refused_with_a_sentence() {
    let refusal = |rho, optimizer| {
        let objective = Objective { rho, ..Objective::default() };
        TrainingStep::build(network(), objective, optimizer).unwrap_err().to_string()
    };
    let decay = "AdamW has a weight decay of its own: the weight of the parameters' norm must be 0, not 0.5";
    assert_eq!(refusal(0.5, ADAMW), decay);
    let Optimizer::AdamW { beta1, beta2, weight_decay, .. } = ADAMW else { unreachable!() };
    let without = Optimizer::AdamW { beta1, beta2, epsilon: 0.0, weight_decay };
    assert_eq!(refusal(0.0, without), "AdamW: epsilon must be above 0, not 0");
}

#[test]
fn states_are_named_after_their_parameters() {
    for (optimizer, states) in [(SGD, &["momentum"][..]), (ADAMW, &["first_moment", "second_moment"])] {
        let step = TrainingStep::build(network(), Objective::default(), optimizer).unwrap();
        let all: Vec<&str> = step.network.graph.states().map(|(_, value)| value.name.as_str()).collect();
        let parameters: Vec<&str> = step.network.parameters.iter().map(|(name, _)| name.as_str()).collect();
        let of_each = parameters.iter().flat_map(|name| states.iter().map(move |state| format!("{name}/{state}")));
        assert_eq!(all[..parameters.len()], parameters);
        assert_eq!(all[parameters.len()..], of_each.collect::<Vec<_>>());
    }
}

/// A wave for the network to look at, and the mask of its crests.
fn wave_and_mask() -> (Vec<f32>, Vec<f32>) {
    let wave: Vec<f32> = (0..96 * 96).map(|i| (i as f32 * 0.37).sin()).collect();
    let mask = wave.iter().map(|&x| f32::from(u8::from(x > 0.9))).collect();
    (wave, mask)
}

#[test]
fn the_total_loss_is_the_weighted_sum_of_its_terms() {
    let device = CpuDevice::new(Some(2)).unwrap();
    let (window, mask) = wave_and_mask();
    let weights = Weights::seeded(network().config, 1).unwrap();
    let objective = Objective { rho: 1e-3, background: 0.5, cross_entropy: 0.25 };
    let step = TrainingStep::build(network(), objective, SGD).unwrap();
    let outputs = [step.network.logits, step.dice_loss, step.total_loss];
    let program = Program::lower(&step.network.graph, &outputs, &device, Placement::Shared).unwrap();
    let mut session = device.load(program).unwrap();
    weights.write_into(&step.network, |id, numbers| session.write(id, numbers)).unwrap();
    session.write(step.network.window, &window).unwrap();
    session.write(step.mask, &mask).unwrap();
    step.write_schedule(1, 0.0, |id, numbers| session.write(id, numbers)).unwrap();
    session.run().unwrap();
    let read = |id| session.read(id).unwrap().to_f64().into_data();
    let probability: Vec<f64> = read(step.network.logits).iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    let pairs = || probability.iter().copied().zip(mask.iter().copied().map(f64::from));
    let dice = |pairs: &mut dyn Iterator<Item = (f64, f64)>| {
        let (both, sum) = pairs.fold((0.0, 0.0), |(both, sum), (p, y)| (both + p * y, sum + p + y));
        1.0 - (2.0 * both + 1.0) / (sum + 1.0)
    };
    let vessel = dice(&mut pairs());
    let background = dice(&mut pairs().map(|(p, y)| (1.0 - p, 1.0 - y)));
    let entropies = pairs().map(|(p, y)| -(y * p.ln() + (1.0 - y) * (1.0 - p).ln()));
    let entropy = entropies.sum::<f64>() / (96.0 * 96.0);
    let norm: f64 = step.network.parameters.iter().flat_map(|&(_, id)| read(id)).map(|w| w * w).sum();
    let total = vessel + 0.5 * background + 0.25 * entropy + 1e-3 * norm;
    approx::assert_relative_eq!(read(step.dice_loss)[0], vessel, max_relative = 1e-5);
    approx::assert_relative_eq!(read(step.total_loss)[0], total, max_relative = 1e-5);
}

#[test]
fn every_step_of_adamw_lowers_the_loss() {
    let device = CpuDevice::new(Some(2)).unwrap();
    let (window, mask) = wave_and_mask();
    let objective = Objective { cross_entropy: 1.0, ..Objective::default() };
    let step = TrainingStep::build(network(), objective, ADAMW).unwrap();
    let program = Program::lower(&step.network.graph, &[step.total_loss], &device, Placement::Shared).unwrap();
    let mut session = device.load(program).unwrap();
    let weights = Weights::seeded(step.network.config, 1).unwrap();
    weights.write_into(&step.network, |id, numbers| session.write(id, numbers)).unwrap();
    session.write(step.network.window, &window).unwrap();
    session.write(step.mask, &mask).unwrap();
    let mut loss = |number| {
        step.write_schedule(number, 0.003, |id, numbers| session.write(id, numbers)).unwrap();
        session.run().unwrap();
        session.read(step.total_loss).unwrap().data()[0]
    };
    let losses: Vec<f32> = (1..=12).map(&mut loss).collect();
    assert!(losses.is_sorted_by(|before, after| after < before), "{losses:?}");
}

/// Where a mask is empty, the background's Dice term teaches and the vessel's own hardly does.
#[test]
fn the_backgrounds_term_has_a_gradient_where_there_is_no_vessel() {
    let device = CpuDevice::new(Some(2)).unwrap();
    let gradient = |background: f32| {
        let step = TrainingStep::build(network(), Objective { background, ..Objective::default() }, SGD).unwrap();
        let outputs = [&step.gradients[..], &[step.total_loss]].concat();
        let program = Program::lower(&step.network.graph, &outputs, &device, Placement::Shared).unwrap();
        let mut session = device.load(program).unwrap();
        let weights = Weights::seeded(step.network.config, 1).unwrap();
        weights.write_into(&step.network, |id, numbers| session.write(id, numbers)).unwrap();
        let window: Vec<f32> = (0..96 * 96).map(|i| (i as f32 * 0.37).sin()).collect();
        session.write(step.network.window, &window).unwrap();
        session.write(step.mask, &vec![0.0; 96 * 96]).unwrap();
        session.write(step.rate, &[0.0]).unwrap();
        session.run().unwrap();
        let squares = |id: &ValueId| session.read(*id).unwrap().data().iter().map(|g| g * g).sum::<f32>();
        (step.gradients.iter().map(squares).sum::<f32>().sqrt(), session.read(step.total_loss).unwrap().data()[0])
    };
    let ((without, loss), (with, both)) = (gradient(0.0), gradient(10.0));
    assert!(with > 100.0 * without && without > 0.0, "{with} and {without}");
    assert!((0.99..=1.0).contains(&loss) && both > loss + 1.0, "{loss}, {both}");
}
