//! Graphs and programs as a whole: shape errors, gradients, memory sharing, determinism, cost.

use coronet::device::cpu::{BfloatSet, CpuDevice};
use coronet::device::{Device, Precision};
use coronet::graph::{Graph, Shape, Tensor, ValueId};
use coronet::model::{CeNet, Config, Objective, Optimizer, Stem, TrainingStep};
#[cfg(feature = "emulator")]
use coronet::ops::Op;
use coronet::ops::{Conv, InstanceNorm, Normalise, Scale};
#[cfg(feature = "emulator")]
use coronet::program::{Epilogue, Step, Target};
use coronet::program::{Placement, Program, Span};
use coronet::verify::relative_l2;
use coronet::weights::Weights;

fn config(width: usize, stem: Stem, n: usize) -> Config {
    Config::new(width, stem, n, 1).unwrap()
}

fn inference(config: Config, size: usize) -> (CeNet, Program) {
    let network = CeNet::build(config, 1, size, size).unwrap();
    let device = CpuDevice::new(Some(1)).unwrap();
    let program = Program::lower(&network.graph, &[network.probability], &device, Placement::Shared).unwrap();
    (network, program)
}

/// Each optimiser with all terms of the loss that it goes with, and how many states a parameter has, itself included.
const TRAINING: [(Objective, Optimizer, usize); 2] = [
    (Objective { rho: 1e-4, background: 0.0, cross_entropy: 0.0 }, Optimizer::Sgd { momentum: 0.9 }, 2),
    (
        Objective { rho: 0.0, background: 0.5, cross_entropy: 0.5 },
        Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 },
        3,
    ),
];

#[test]
fn a_shape_error_names_the_node_and_both_shapes() {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(1, 8, 4, 4));
    let w = graph.state("w", Shape::Filter { outputs: 4, inputs: 6, height: 3, width: 3 });
    let error = graph.conv("encoder1.conv", x, w, None, Conv::same(3)).unwrap_err().to_string();
    for part in ["encoder1.conv", "maps 1x8x4x4", "filter 4x6x3x3", "the filter reads 6 channels, the input has 8"] {
        assert!(error.contains(part), "{error}");
    }
    let y = graph.input("y", Shape::maps(1, 8, 4, 5));
    let error = graph.add("skip", x, y).unwrap_err().to_string();
    assert!(error.contains("maps 1x8x4x4 is not maps 1x8x4x5"), "{error}");
}

#[test]
fn only_scalars_are_differentiated_and_only_states_updated() {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(1, 8, 4, 4));
    assert!(graph.differentiate(x, &[x]).unwrap_err().to_string().contains("only a scalar"));
    assert!(graph.update(x, x).unwrap_err().to_string().contains("only a state"));
    let state = graph.state("s", Shape::Scalar);
    assert!(graph.update(state, x).unwrap_err().to_string().contains("cannot have the shape"));
}

#[test]
fn a_value_that_the_scalar_does_not_need_has_a_gradient_of_zeros() {
    let mut graph = Graph::new();
    let (a, b) = (graph.input("a", Shape::Scalar), graph.input("b", Shape::Scalar));
    let square = graph.sum_of_squares("a^2", &[a]).unwrap();
    let gradients = graph.differentiate(square, &[a, b]).unwrap();
    let three = |id| (id, Tensor::filled(Shape::Scalar, 3.0));
    let values = graph.evaluate(&[three(a), three(b)]).unwrap();
    assert_eq!(values[gradients[0].index()].data(), [6.0]);
    assert_eq!(values[gradients[1].index()].data(), [0.0]);
}

#[test]
fn an_update_that_cannot_be_made_in_place_is_refused() {
    let mut graph = Graph::new();
    let state = graph.state("s", Shape::Scalar);
    let doubled = graph.apply_one("doubled", Scale { factor: 2.0 }, &[state]).unwrap();
    graph.update(state, doubled).unwrap();
    let later = graph.sum_of_squares("later", &[state]).unwrap();
    let device = CpuDevice::new(Some(1)).unwrap();
    let error = Program::lower(&graph, &[later], &device, Placement::Shared).unwrap_err();
    assert!(error.to_string().contains("s cannot be updated in place by doubled"), "{error}");
}

#[test]
fn an_update_that_no_step_makes_is_refused() {
    let device = CpuDevice::new(Some(1)).unwrap();
    let mut graph = Graph::new();
    let (state, x) = (graph.state("s", Shape::Scalar), graph.input("x", Shape::Scalar));
    graph.update(state, x).unwrap();
    let error = Program::lower(&graph, &[state, x], &device, Placement::Shared).unwrap_err().to_string();
    assert!(error.contains("s cannot be updated by x"), "{error}");
}

#[test]
fn empty_and_absurd_shapes_are_refused() {
    let mut graph = Graph::new();
    for (shape, problem) in [
        (Shape::maps(1, 8, 0, 1000), "has a side of 0"),
        (Shape::maps(1, 8, 1 << 30, 1 << 29), "is too large"),
        (Shape::maps(usize::MAX, usize::MAX, 3, 3), "is too large"),
    ] {
        let x = graph.input("x", shape);
        let error = graph.relu("relu", x).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let small = graph.input("x", Shape::maps(1, 8, 4, 4));
    let error = graph.resize("resize", small, 1 << 25, 1 << 25).unwrap_err().to_string();
    assert!(error.contains("is too large"), "{error}");
}

#[test]
fn statistics_are_not_differentiable_even_beside_the_maps() {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(1, 3, 4, 4));
    let gamma = graph.state("gamma", Shape::Channels { channels: 3 });
    let normed = graph.apply("norm", InstanceNorm { epsilon: 1e-5 }, &[x, gamma, gamma]).unwrap();
    let loss = graph.sum_of_squares("loss", &normed).unwrap();
    let error = graph.differentiate(loss, &[x]).unwrap_err().to_string();
    assert!(error.contains("norm: only the first result"), "{error}");
}

#[test]
fn nothing_is_folded_past_a_node_that_needs_it_earlier() {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(1, 3, 4, 4));
    let gamma = graph.state("gamma", Shape::Channels { channels: 3 });
    let normed = graph.apply("norm", InstanceNorm { epsilon: 1e-5 }, &[x, gamma, gamma]).unwrap();
    let early = graph.sum_of_squares("early", &normed[1..]).unwrap();
    let late = graph.relu("late", normed[0]).unwrap();
    let device = CpuDevice::new(Some(1)).unwrap();
    let program = Program::lower(&graph, &[early, late], &device, Placement::Shared).unwrap();
    let names: Vec<&str> = program.steps().iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["norm", "early", "late"]);
    // Without the early reader the ReLU is folded into the norm.
    let program = Program::lower(&graph, &[late], &device, Placement::Shared).unwrap();
    assert_eq!(program.steps().len(), 1);
}

#[test]
fn the_networks_cost_what_the_article_and_its_variants_cost() {
    // (width, stem, GMAC to two digits, million parameters to two digits), N = 2, 448x448.
    for (width, stem, gmac, parameters) in
        [(64, Stem::Half, 73.53, 28.99), (64, Stem::Quarter, 22.69, 29.04), (16, Stem::Half, 4.63, 1.82)]
    {
        let (network, program) = inference(config(width, stem, 2), 448);
        assert!((program.macs() as f64 / 1e9 - gmac).abs() < 0.005, "{} MAC", program.macs());
        let count: usize = network.graph.states().map(|(_, value)| value.shape.elements()).sum();
        assert!((count as f64 / 1e6 - parameters).abs() < 0.005, "{count} parameters");
    }
}

#[test]
fn sharing_saves_most_of_the_arena_and_the_table_says_so() {
    let (_, program) = inference(config(64, Stem::Half, 2), 448);
    let megabytes = |len: usize| len * size_of::<f32>() / 1_000_000;
    assert!(megabytes(program.arena_len()) < 400, "{} MB", megabytes(program.arena_len()));
    // Filters that are kept transformed take most of it; they can share nothing.
    let values = |len: usize| len - program.state_len();
    assert!(megabytes(values(program.arena_len())) < 100, "{} MB", megabytes(values(program.arena_len())));
    assert!(values(program.arena_len()) * 5 < values(program.unshared_len()));
    let table = program.to_string();
    // The blocks' first norms are applied where their second convolutions read them, and two more: by the pooling and by the
    // head. All others are one pass over the maps, the decoders' with what is added behind them.
    let count = |kernel: &str| program.steps().iter().filter(|step| Program::kernel(step) == kernel).count();
    assert_eq!(count("norm + relu + conv + statistics"), 16);
    assert_eq!(count("norm + relu + conv + relu"), 1);
    assert_eq!(count("norm + relu + max pool"), 1);
    assert_eq!(count("normalise + residual + relu"), 16);
    assert_eq!(count("normalise + relu + residual"), 3);
    assert_eq!(count("normalise + relu"), 8);
    assert_eq!(count("normalise"), 3);
    assert!(!table.contains("instance norm"), "{table}");
    // Only `ReLU(A x)` of the DAC stands alone: `A x` itself is needed by the next branch.
    let alone: Vec<&str> = table.lines().filter(|line| line.contains("  relu ")).collect();
    assert!(alone.len() == 1 && alone[0].contains("dac.relu0"), "{alone:?}");
    assert!(table.ends_with(&format!("{} launches", program.steps().len())), "{table}");
    assert!(table.contains("% saved"));
}

/// A norm is applied where its result is read only if one step alone reads it, as what it works on, and nobody else does.
#[test]
fn a_norm_that_others_need_too_is_a_step_of_its_own() {
    let lowered = |reads: fn(&mut Graph, ValueId, ValueId) -> Vec<ValueId>| {
        let mut graph = Graph::new();
        let x = graph.input("x", Shape::maps(1, 16, 24, 24));
        let statistics = graph.input("statistics", Shape::Statistics { batch: 1, channels: 16, entries: 2 });
        let [gamma, beta] = ["gamma", "beta"].map(|name| graph.input(name, Shape::Channels { channels: 16 }));
        let w = graph.input("w", Shape::Filter { outputs: 16, inputs: 16, height: 3, width: 3 });
        let normed = graph.apply_one("normed", Normalise, &[x, statistics, gamma, beta]).unwrap();
        let outputs = reads(&mut graph, normed, w);
        let device = CpuDevice::new(Some(1)).unwrap();
        let program = Program::lower(&graph, &outputs, &device, Placement::Shared).unwrap();
        program.steps().iter().map(Program::kernel).collect::<Vec<_>>()
    };
    fn conv(graph: &mut Graph, x: ValueId, w: ValueId, stride: usize) -> ValueId {
        graph.conv("conv", x, w, None, Conv { stride, padding: 1, dilation: 1 }).unwrap()
    }
    assert_eq!(lowered(|graph, x, w| vec![conv(graph, x, w, 1)]), ["norm + conv"]);
    // The result itself is asked for, or read twice, or what is added, or read in place.
    assert_eq!(lowered(|graph, x, w| vec![x, conv(graph, x, w, 1)]), ["normalise", "conv"]);
    let twice = |graph: &mut Graph, x, w| vec![conv(graph, x, w, 1), conv(graph, x, w, 1)];
    assert_eq!(lowered(twice), ["normalise", "conv", "conv"]);
    let added = |graph: &mut Graph, x, w| {
        let other = conv(graph, x, w, 1);
        vec![graph.add("sum", other, x).unwrap()]
    };
    assert_eq!(lowered(added), ["normalise", "conv", "add"]);
    assert_eq!(lowered(|graph, x, w| vec![conv(graph, x, w, 2)]), ["normalise", "conv"]);
}

/// How often each kind of step occurs that has to do with norms: a norm of its own, one that only applies statistics,
/// convolutions that take statistics, and those that do all.
#[cfg(feature = "emulator")]
fn norms(graph: &Graph, output: ValueId, device: &dyn Device) -> [usize; 4] {
    let program = Program::lower(graph, &[output], device, Placement::Shared).unwrap();
    let kernels: Vec<String> = program.steps().iter().map(Program::kernel).collect();
    let count = |is_one: &dyn Fn(&str) -> bool| kernels.iter().filter(|kernel| is_one(kernel)).count();
    [
        count(&|kernel| kernel.starts_with("instance norm") && !kernel.contains("gradient")),
        count(&|kernel| kernel.starts_with("normalise")),
        count(&|kernel| kernel.ends_with(" + statistics")),
        count(&|kernel| kernel.contains("conv + norm")),
    ]
}

#[cfg(feature = "emulator")]
#[test]
fn the_convolution_before_a_norm_does_as_much_of_it_as_the_device_and_other_readers_allow() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    let (cpu, emulated) = (CpuDevice::new(Some(1)).unwrap(), CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0])));
    let network = CeNet::build(config(8, Stem::Half, 1), 1, 96, 96).unwrap();
    assert_eq!(norms(&network.graph, network.probability, &cpu), [0, 30, 48, 0]);
    assert_eq!(norms(&network.graph, network.probability, &emulated), [0, 0, 0, 48]);
    // Gradients read what the norms have read.
    let step = TrainingStep::build(network, TRAINING[0].0, TRAINING[0].1).unwrap();
    assert_eq!(norms(&step.network.graph, step.total_loss, &emulated), [0, 48, 48, 0]);
}

#[test]
fn a_network_does_not_learn_in_bfloat16_on_the_cpu() {
    let cpu = CpuDevice::new(Some(1)).unwrap().with_bfloat(BfloatSet::Portable).unwrap();
    let device = cpu.with_precision(Precision::BFloat16).unwrap();
    let network = CeNet::build(config(4, Stem::Half, 1), 2, 96, 96).unwrap();
    let step = TrainingStep::build(network, TRAINING[0].0, TRAINING[0].1).unwrap();
    let program = Program::lower(&step.network.graph, &[step.total_loss], &*device, Placement::Shared).unwrap();
    let sentence = device.load(program).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(sentence.contains("learns in float32 only, not in bfloat16"), "{sentence}");
}

/// A device for which nothing is folded but statistics, whose parts would be others elsewhere, or all but the pooling, which
/// adds in another order.
#[cfg(feature = "emulator")]
struct Plain<'a> {
    device: &'a dyn Device,
    folds: bool,
}

#[cfg(feature = "emulator")]
impl Target for Plain<'_> {
    fn storage(&self, shape: Shape) -> usize {
        self.device.storage(shape)
    }

    fn folds(&self, op: &Op, result: Shape, epilogue: &Epilogue) -> bool {
        let only_statistics = Epilogue { statistics: epilogue.statistics, ..Epilogue::default() };
        (self.folds || *epilogue == only_statistics) && self.device.folds(op, result, epilogue)
    }

    fn workspace(&self, step: &Step, inputs: &[Shape], outputs: &[Shape]) -> usize {
        self.device.workspace(step, inputs, outputs)
    }
}

/// 2 % is what is asked of logits in bfloat16. The network's weights are drawn, so that no training hides an error.
#[test]
fn in_bfloat16_the_logits_of_the_articles_network_are_all_but_those_of_float32() {
    for stem in [Stem::Half, Stem::Quarter] {
        assert_near_float32(config(64, stem, 2));
    }
}

fn assert_near_float32(config: Config) {
    let network = CeNet::build(config, 1, 448, 448).unwrap();
    let weights = Weights::seeded(config, 5).unwrap();
    // 8-bit noise with a dark tube that moves from frame to frame, scaled for the network.
    let pixel = |at: usize| {
        let (frame, y, x) = (at / (448 * 448), at / 448 % 448, at % 448);
        let noise = (at as u64 ^ 0x5bd1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let tube = (170 + y / 8 + 3 * frame).abs_diff(x) < 6;
        (90.0 + (noise % 166) as f32 - if tube { 80.0 } else { 0.0 }) / 255.0 * 3.2 - 1.6
    };
    let window: Vec<f32> = (0..network.graph.shape(network.window).elements()).map(pixel).collect();
    let cpu = CpuDevice::new(None).unwrap();
    let logits = |device: &dyn Device| {
        let program = Program::lower(&network.graph, &[network.logits], device, Placement::Shared).unwrap();
        let mut session = device.load(program).unwrap();
        weights.write_into(&network, |id, numbers| session.write(id, numbers)).unwrap();
        session.write(network.window, &window).unwrap();
        session.run().unwrap();
        session.read(network.logits).unwrap().into_data()
    };
    let exact: Vec<f64> = logits(&cpu).into_iter().map(f64::from).collect();
    // The portable set rounds the convolutions that AMX does.
    for set in BfloatSet::available() {
        let device = cpu.clone().with_bfloat(set).unwrap().with_precision(Precision::BFloat16).unwrap();
        let error = relative_l2(&logits(&*device), &exact);
        println!("{}, stem {:?}: {:.3} % of the logits", set.name(), config.stem(), 100.0 * error);
        assert!((0.0005..=0.02).contains(&error), "{}, {config:?}: {error}", set.name());
    }
}

/// A folded program computes what the plain one does, in every precision.
#[cfg(feature = "emulator")]
fn check_folding(stem: Stem, (height, width): (usize, usize), schedule: coronet::device::cuda::Schedule) {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver};
    let config = config(8, stem, 1);
    let network = CeNet::build(config, 1, height, width).unwrap();
    let weights = Weights::seeded(config, 5).unwrap();
    let window: Vec<f32> =
        (0..network.graph.shape(network.window).elements()).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut exact = Vec::new();
    for precision in Precision::ALL {
        let device = CudaDevice::new(EmulatedDriver::new(schedule)).with_precision(precision).unwrap();
        let probability = |target: &dyn Target| {
            let output = [network.probability];
            let program = Program::lower(&network.graph, &output, target, Placement::Shared).unwrap();
            let steps = program.steps().len();
            let mut session = device.load(program).unwrap();
            weights.write_into(&network, |id, numbers| session.write(id, numbers)).unwrap();
            session.write(network.window, &window).unwrap();
            // Blocks count on from run to run.
            session.run().unwrap();
            session.run().unwrap();
            (steps, session.read(network.probability).unwrap().into_data())
        };
        let (plain_steps, plain) = probability(&Plain { device: &*device, folds: false });
        let (folded_steps, folded) = probability(&Plain { device: &*device, folds: true });
        let (steps, whole) = probability(&*device);
        assert!(steps < folded_steps && 2 * folded_steps < plain_steps, "{steps}, {folded_steps}, {plain_steps}");
        // The pooling adds its channels in another order, and multiplies in float32.
        let wide: Vec<f64> = plain.iter().copied().map(f64::from).collect();
        let bound = match precision {
            Precision::Float32 => 1e-5,
            Precision::Tf32 | Precision::Float16 => 1e-3,
            Precision::BFloat16 => 1e-2,
        };
        if precision == Precision::Float32 {
            exact = wide.clone();
        }
        let error = |numbers: &[f32]| relative_l2(numbers, &wide);
        let rounding = |numbers: &[f32]| relative_l2(numbers, &exact);
        if precision == Precision::Float16 {
            // Plain norms keep their maps in float32, what is folded in float16: it is rounded more often, but not worse.
            for numbers in [&folded, &whole] {
                let (more, less) = (rounding(numbers), rounding(&plain));
                assert!(more < 2.0 * less && less < 0.05, "{precision}: {more}, {less}");
            }
            continue;
        }
        assert!(plain == folded, "{precision}: {}", error(&folded));
        assert!(error(&whole) < bound, "{precision}: {}", error(&whole));
    }
}

// A test each, so that two threads share them.
#[cfg(feature = "emulator")]
#[test]
fn a_folded_program_with_the_stem_half_computes_what_the_plain_one_does_in_every_precision() {
    check_folding(Stem::Half, (96, 112), coronet::device::cuda::Schedule::ALL[0]);
}

#[cfg(feature = "emulator")]
#[test]
fn a_folded_program_with_the_stem_quarter_computes_what_the_plain_one_does_in_every_precision() {
    check_folding(Stem::Quarter, (192, 192), coronet::device::cuda::Schedule::ALL[2]);
}

/// A chain without norms whose numbers grow a hundredfold at each convolution, as those of a trained dense atrous block do.
#[cfg(feature = "emulator")]
#[test]
fn what_convolutions_make_one_after_the_other_may_be_beyond_float16() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(1, 16, 12, 12));
    let filter = |side: usize| Shape::Filter { outputs: 16, inputs: 16, height: side, width: side };
    let threes: Vec<ValueId> = (0..5).map(|depth| graph.state(&format!("three{depth}"), filter(3))).collect();
    let one = graph.state("one", filter(1));
    let [gamma, beta] = ["gamma", "beta"].map(|name| graph.state(name, Shape::Channels { channels: 16 }));
    let start = graph.conv("start", x, threes[0], None, Conv::same(3)).unwrap();
    let start = graph.instance_norm("start_norm", start, gamma, beta).unwrap();
    let mut sum = start;
    let mut chain = vec![start];
    for depth in 1..=4 {
        let next = graph.conv(&format!("chain{depth}"), chain[depth - 1], threes[depth], None, Conv::same(3)).unwrap();
        let branch = graph.conv(&format!("branch{depth}"), next, one, None, Conv::same(1)).unwrap();
        let branch = graph.relu(&format!("rectified{depth}"), branch).unwrap();
        sum = graph.add(&format!("sum{depth}"), sum, branch).unwrap();
        chain.push(next);
    }
    let normed = graph.instance_norm("normed", sum, gamma, beta).unwrap();
    let run = |device: &dyn Device| {
        let program = Program::lower(&graph, &[normed], device, Placement::Shared).unwrap();
        let mut session = device.load(program).unwrap();
        let given = [(x, 1.0), (one, 2.0), (gamma, 1.0), (beta, 1.0)];
        for (id, factor) in given.into_iter().chain(threes.iter().map(|&id| (id, 10.0))) {
            let len = graph.shape(id).elements() as u32;
            let numbers: Vec<f32> = (0..len).map(|i| factor * (i as f32 * 0.7 + factor).sin()).collect();
            session.write(id, &numbers).unwrap();
        }
        session.run().unwrap();
        let kept: Vec<Precision> = chain.iter().map(|&id| session.kept_in(id)).collect();
        (session.read(normed).unwrap().into_data(), kept)
    };
    let (exact, _) = run(&CpuDevice::new(Some(1)).unwrap());
    let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
    let half = CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0])).with_precision(Precision::Float16).unwrap();
    let (rounded, kept) = run(&*half);
    let error = relative_l2(&rounded, &exact);
    assert!(error < 5e-3, "{error}");
    // All branches share a filter that multiplies what is too large.
    assert_eq!(kept[0], Precision::Float16);
    assert!(kept[1..].iter().all(|&kept| kept == Precision::Float32), "{kept:?}");
}

/// Maps of a program that computes gradients without replacing its filters may be kept in 16 bits, but gradients multiply wider
/// numbers.
#[cfg(feature = "emulator")]
#[test]
fn gradients_beside_maps_of_16_bits_are_right() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    let mut graph = Graph::new();
    let (x, mask) = (graph.input("x", Shape::maps(1, 16, 12, 12)), graph.input("mask", Shape::maps(1, 1, 12, 12)));
    let filter = |outputs: usize| Shape::Filter { outputs, inputs: 16, height: 3, width: 3 };
    let [first, second, last] =
        [("first", 16), ("second", 16), ("last", 1)].map(|(name, outputs)| graph.state(name, filter(outputs)));
    let [gamma, beta] = ["gamma", "beta"].map(|name| graph.state(name, Shape::Channels { channels: 16 }));
    let y = graph.conv("conv1", x, first, None, Conv::same(3)).unwrap();
    let y = graph.instance_norm("norm", y, gamma, beta).unwrap();
    let y = graph.conv("conv2", y, second, None, Conv::same(3)).unwrap();
    let y = graph.conv("conv3", y, last, None, Conv::same(3)).unwrap();
    let y = graph.sigmoid("probability", y).unwrap();
    let loss = graph.soft_dice("loss", y, mask).unwrap();
    let gradient = graph.differentiate(loss, &[second]).unwrap()[0];
    let run = |device: &dyn Device| {
        let program = Program::lower(&graph, &[gradient], device, Placement::Shared).unwrap();
        let mut session = device.load(program).unwrap();
        for (seed, id) in [x, mask, first, second, last, gamma, beta].into_iter().enumerate() {
            let len = graph.shape(id).elements() as u32;
            let numbers: Vec<f32> = (0..len).map(|i| 0.2 * (i as f32 * 0.7 + seed as f32).sin()).collect();
            session.write(id, &numbers).unwrap();
        }
        session.run().unwrap();
        session.read(gradient).unwrap().into_data()
    };
    let exact: Vec<f64> = run(&CpuDevice::new(Some(1)).unwrap()).into_iter().map(f64::from).collect();
    let half = CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0])).with_precision(Precision::Float16).unwrap();
    let error = relative_l2(&run(&*half), &exact);
    assert!(error < 5e-3, "{error}");
}

#[test]
fn no_two_values_alive_together_share_memory() {
    for (objective, optimizer, states) in TRAINING {
        let network = CeNet::build(config(4, Stem::Half, 1), 2, 96, 96).unwrap();
        check_sharing(&TrainingStep::build(network, objective, optimizer).unwrap(), states);
    }
}

fn check_sharing(step: &TrainingStep, states: usize) {
    let device = CpuDevice::new(Some(1)).unwrap();
    let program = Program::lower(&step.network.graph, &[step.total_loss], &device, Placement::Shared).unwrap();
    // Who last wrote each number of the arena, replayed step by step: a reader must find its own value there.
    let mut owner: Vec<Option<ValueId>> = vec![None; program.arena_len()];
    let graph = &step.network.graph;
    let updates: Vec<(ValueId, ValueId)> = graph.updates().to_vec();
    let claim = |owner: &mut Vec<Option<ValueId>>, id: ValueId| {
        let span = program.span(id).unwrap();
        owner[span.offset..span.offset + span.len].fill(Some(id));
    };
    let written: Vec<ValueId> = program.steps().iter().flat_map(|s| s.outputs.clone()).collect();
    for id in graph.ids().filter(|id| program.span(*id).is_some() && !written.contains(id)) {
        claim(&mut owner, id);
    }
    let apart = |a: Span, b: Span| a.offset + a.len <= b.offset || b.offset + b.len <= a.offset || a.len * b.len == 0;
    for step in program.steps() {
        let span = |id: ValueId| program.span(id).unwrap();
        for (result, &output) in step.outputs.iter().enumerate() {
            assert!(apart(step.workspace, span(output)), "{}: workspace over a result", step.name);
            for (operand, &input) in step.inputs.iter().enumerate() {
                let may_share = step.op.operator().in_place().contains(&(operand, result));
                let shared = may_share && span(input) == span(output);
                assert!(shared || apart(span(input), span(output)), "{}: result over operand {operand}", step.name);
            }
        }
        for &id in &step.inputs {
            assert!(apart(step.workspace, span(id)), "{}: workspace over an operand", step.name);
            let span = program.span(id).unwrap();
            let intact = owner[span.offset..span.offset + span.len].iter().all(|&o| o == Some(id));
            assert!(intact, "{} finds {} overwritten", step.name, program.value(id).name);
        }
        owner[step.workspace.offset..step.workspace.offset + step.workspace.len].fill(None);
        step.outputs.iter().for_each(|&id| claim(&mut owner, id));
    }
    assert_eq!(updates.len(), states * step.network.parameters.len());
    for (state, new) in updates {
        assert_eq!(program.span(state), program.span(new));
    }
}

/// [`trained_bits_on`] the CPU, three steps.
fn trained_bits(training: usize, threads: usize, placement: Placement) -> Vec<u32> {
    trained_bits_on(&CpuDevice::new(Some(threads)).unwrap(), training, placement, 3)
}

/// Total loss of each step of an entry of [`TRAINING`] and every parameter after them, as bits.
fn trained_bits_on(device: &dyn Device, training: usize, placement: Placement, steps: u64) -> Vec<u32> {
    let config = config(8, Stem::Half, 1);
    let network = CeNet::build(config, 2, 96, 112).unwrap();
    let (objective, optimizer, _) = TRAINING[training];
    let step = TrainingStep::build(network, objective, optimizer).unwrap();
    let program = Program::lower(&step.network.graph, &[step.total_loss], device, placement).unwrap();
    let mut session = device.load(program).unwrap();
    let weights = Weights::seeded(config, 5).unwrap();
    weights.write_into(&step.network, |id, numbers| session.write(id, numbers)).unwrap();
    let wave = |i: usize| (i as f32 * 0.7).sin();
    let elements = |id| step.network.graph.shape(id).elements();
    let window: Vec<f32> = (0..elements(step.network.window)).map(wave).collect();
    let mask: Vec<f32> = (0..elements(step.mask)).map(|i| f32::from(wave(i) > 0.8)).collect();
    session.write(step.network.window, &window).unwrap();
    session.write(step.mask, &mask).unwrap();
    let mut bits = Vec::new();
    for number in 1..=steps {
        step.write_schedule(number, 0.05, |id, numbers| session.write(id, numbers)).unwrap();
        session.run().unwrap();
        bits.push(session.read(step.total_loss).unwrap().data()[0].to_bits());
    }
    for (_, id) in &step.network.parameters {
        bits.extend(session.read(*id).unwrap().data().iter().map(|v| v.to_bits()));
    }
    bits
}

#[test]
fn training_gives_the_same_bits_whatever_the_thread_count_and_the_placement() {
    for training in 0..TRAINING.len() {
        let one = trained_bits(training, 1, Placement::Shared);
        assert!(one.iter().all(|&bits| f32::from_bits(bits).is_finite()));
        assert_eq!(one, trained_bits(training, 1, Placement::Shared), "a second run");
        for threads in [2, 3, 5] {
            assert!(one == trained_bits(training, threads, Placement::Shared), "{threads} threads");
        }
        // Isolated values start as NaN between guards that each step is checked against.
        assert!(one == trained_bits(training, 2, Placement::Isolated { guard: 64 }), "isolated");
    }
}

#[cfg(feature = "emulator")]
#[test]
fn training_gives_the_same_bits_under_every_schedule_of_the_emulated_gpu_and_every_placement() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    let [first, others @ ..] = Schedule::ALL.map(|schedule| CudaDevice::new(EmulatedDriver::new(schedule)));
    let shared = trained_bits_on(&first, 0, Placement::Shared, 1);
    assert!(shared.iter().all(|&bits| f32::from_bits(bits).is_finite()));
    for other in others {
        assert!(shared == trained_bits_on(&other, 0, Placement::Shared, 1));
    }
    assert!(shared == trained_bits_on(&first, 0, Placement::Isolated { guard: 64 }, 1), "isolated");
}

#[test]
fn sessions_refuse_what_is_not_theirs() {
    check_refusals(&CpuDevice::new(Some(1)).unwrap());
}

#[cfg(feature = "emulator")]
#[test]
fn sessions_of_the_emulated_gpu_refuse_what_is_not_theirs() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    check_refusals(&CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0])));
}

fn check_refusals(device: &dyn Device) {
    let network = CeNet::build(config(4, Stem::Half, 0), 1, 96, 96).unwrap();
    let program = Program::lower(&network.graph, &[network.probability], device, Placement::Shared).unwrap();
    let mut session = device.load(program).unwrap();
    let steps = session.program().steps().len();
    let refused = |result: coronet::Result<()>| result.unwrap_err().to_string();
    assert!(refused(session.write(network.window, &[0.0; 7])).contains("but 7 numbers were given"));
    let output = vec![0.0; 96 * 96];
    assert!(refused(session.write(network.probability, &output)).contains("is computed, not given"));
    let (_, stem) = network.stages.iter().find(|(name, _)| name == "stem").unwrap();
    assert!(session.read(*stem).unwrap_err().to_string().contains("not an output"));
    assert!(session.read(network.probability).is_ok());
    assert!(refused(session.run_timed(&mut [])).contains(&format!("{steps} steps, but 0 times were given")));
}
