//! Every operator's cases: devices against the float64 references, gradient rules against finite differences.

use coronet::device::cpu::{BfloatSet, CpuDevice, InstructionSet};
use coronet::device::{Device, Precision};
use coronet::graph::{Graph, Shape, Tensor, ValueId};
use coronet::ops::{Case, Conv, Data, MaxPool, Normalise, Op, all_cases, bilinear_taps};
use coronet::program::{Placement, Program};
use coronet::verify::{Check, Measure, layer_cases, relative_l2, verify, verify_rounded};
use std::collections::BTreeSet;

#[test]
fn the_cpu_agrees_with_the_reference_on_every_case_and_instruction_set() {
    for set in InstructionSet::available() {
        let device = CpuDevice::with_instructions(Some(2), set).unwrap();
        let mut failures = Vec::new();
        for case in all_cases() {
            let verdict = verify(&case, &device, 1).unwrap();
            if !verdict.passed() {
                failures.push(format!("{case}: error {} above {}", verdict.error, verdict.bound));
            }
            // A device may say that its way is less exact than the case asks for, but not by how much it likes.
            assert!(verdict.bound <= 1e-4, "{case}: {} is no bound", verdict.bound);
        }
        println!("{}: {} cases", set.name(), all_cases().len());
        assert!(failures.is_empty(), "{}:\n{}", set.name(), failures.join("\n"));
    }
    let available: Vec<&str> = InstructionSet::available().into_iter().map(InstructionSet::name).collect();
    for name in ["AVX-512", "AVX2", "NEON"].into_iter().filter(|name| !available.contains(name)) {
        println!("note: {name} is not tested: this processor does not have it");
    }
}

#[test]
fn gradient_rules_agree_with_finite_differences_of_the_references() {
    let device = CpuDevice::new(Some(1)).unwrap(); // takes no part
    let mut checked = BTreeSet::new();
    for check in Check::all().unwrap().iter().filter(|check| matches!(check, Check::GradientRule(_))) {
        let verdict = check.run(&device, 1).unwrap();
        assert!(verdict.passed(), "{check}: error {}", verdict.error);
        checked.insert(check.case().op.variant());
    }
    let cases = all_cases();
    let differentiable = cases.iter().filter(|case| case.op.operator().is_differentiable());
    assert_eq!(checked, differentiable.map(|case| case.op.variant()).collect::<BTreeSet<_>>());
    assert_eq!(checked.len(), 14, "{checked:?}");
}

#[test]
fn the_cpu_agrees_with_the_reference_on_every_layer_of_the_network() {
    let device = CpuDevice::new(Some(2)).unwrap();
    let failures: Vec<String> = layer_cases()
        .unwrap()
        .iter()
        .map(|case| (case, verify(case, &device, 1).unwrap()))
        .filter(|(_, verdict)| !verdict.passed())
        .map(|(case, verdict)| format!("{case}: error {} above {}", verdict.error, verdict.bound))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The bits of a convolution's normed result and of its statistics, where no run changes the filter.
fn conv_bits(case: &Case, device: &dyn Device) -> Vec<u32> {
    let mut graph = Graph::new();
    let ids: Vec<ValueId> = case.inputs.iter().map(|&(shape, _)| graph.input("operand", shape)).collect();
    let sums = graph.apply_one("case", case.op.clone(), &ids).unwrap();
    let Shape::Maps { channels, .. } = graph.shape(sums) else { panic!("a convolution makes maps") };
    let [gamma, beta] = ["gamma", "beta"].map(|name| graph.input(name, Shape::Channels { channels }));
    let made = graph.apply("norm", Case::NORM, &[sums, gamma, beta]).unwrap();
    let mut session = device.load(Program::lower(&graph, &made, device, Placement::Shared).unwrap()).unwrap();
    for (id, tensor) in ids.iter().zip(case.draw(3)) {
        session.write(*id, tensor.data()).unwrap();
    }
    session.write(gamma, &vec![1.5; channels]).unwrap();
    session.write(beta, &vec![-0.25; channels]).unwrap();
    session.run().unwrap();
    made.iter().flat_map(|&id| session.read(id).unwrap().into_data()).map(f32::to_bits).collect()
}

#[test]
fn convolutions_have_the_same_bits_however_many_threads_share_the_work() {
    // Fewer tiles than threads, so that panels are shared out; many blocks of tiles; rows.
    for (batch, channels, outputs, height, width, stride, dilation) in [
        (1, 16, 200, 6, 5, 1, 1),
        (3, 64, 72, 14, 13, 1, 1),
        (2, 24, 40, 101, 90, 1, 1),
        (1, 40, 64, 17, 14, 1, 3),
        (1, 40, 1, 50, 20, 1, 1),
        (2, 6, 10, 70, 33, 1, 1),
        (1, 20, 24, 70, 33, 2, 1),
    ] {
        let conv = Conv { stride, padding: dilation, dilation };
        let w = Shape::Filter { outputs, inputs: channels, height: 3, width: 3 };
        let case = Case::new(conv, &[Shape::maps(batch, channels, height, width), w], Data::Normal(0.0));
        let bits = |threads| conv_bits(&case, &CpuDevice::new(Some(threads)).unwrap());
        let alone = bits(1);
        for threads in [2, 3, 16] {
            assert_eq!(bits(threads), alone, "{case} on {threads} threads");
        }
    }
}

#[test]
fn convolutions_by_tiles_and_by_rows_agree_with_the_reference_whatever_the_padding_and_the_kernel() {
    // (batch, channels in, channels out, height, width, kernel, padding, dilation)
    let table = [
        // By tiles.
        (1, 16, 16, 17, 12, (3, 3), 0, 1),
        (2, 16, 24, 13, 14, (3, 3), 2, 1),
        (1, 16, 32, 30, 31, (3, 3), 1, 2),
        // By rows: one output, groups of outputs; rows of less than a vector, of some, of several blocks of vectors.
        (1, 9, 1, 18, 7, (3, 3), 0, 1),
        (1, 16, 1, 6, 35, (3, 3), 2, 1),
        (1, 64, 1, 5, 131, (3, 3), 1, 1),
        (1, 16, 2, 20, 7, (2, 4), 1, 1),
        (2, 16, 4, 40, 9, (2, 2), 1, 1),
        (1, 16, 1, 20, 7, (2, 5), 1, 1),
        (1, 1, 16, 9, 49, (3, 3), 1, 1),
        (3, 3, 5, 33, 48, (7, 7), 3, 1),
        (1, 8, 8, 19, 100, (3, 3), 1, 1),
        (1, 4, 12, 17, 17, (1, 5), 2, 1),
        (1, 11, 9, 3, 1, (3, 3), 1, 1),
        // Neither.
        (1, 16, 1, 20, 7, (4, 4), 3, 2),
    ];
    for set in InstructionSet::available() {
        let device = CpuDevice::with_instructions(Some(3), set).unwrap();
        for (batch, inputs, outputs, height, width, kernel, padding, dilation) in table {
            let conv = Conv { stride: 1, padding, dilation };
            let w = Shape::Filter { outputs, inputs, height: kernel.0, width: kernel.1 };
            let operands = [Shape::maps(batch, inputs, height, width), w, Shape::Channels { channels: outputs }];
            for data in [Data::Integers, Data::Normal(0.0)] {
                let case = Case::new(conv, &operands, data).with_relu();
                let verdict = verify(&case, &device, 1).unwrap();
                assert!(verdict.passed(), "{}: {case}: error {}", set.name(), verdict.error);
            }
        }
    }
}

/// Of so many pixels that they are taken in parts, by tiles, by rows and tap by tap, and by products of bfloat16.
#[test]
fn norms_before_and_behind_convolutions_of_many_pixels_agree_with_the_reference() {
    let check = |device: &dyn Device, name: &str, bound: f64| {
        for (inputs, outputs, stride) in [(16, 24, 1), (5, 9, 1), (17, 16, 2)] {
            let conv = Conv { stride, padding: 1, dilation: 1 };
            let w = Shape::Filter { outputs, inputs, height: 3, width: 3 };
            let operands = [Shape::maps(2, inputs, 95, 98), w, Shape::Channels { channels: outputs }];
            // Far from zero all but what the norm is of is lost.
            for (mean, first) in [(0.0, true), (0.0, false), (30.0, false)] {
                let plain = Case::new(conv, &operands, Data::Normal(mean));
                let plain = if first { plain.of_normed(2, inputs, true) } else { plain };
                let case = plain.within(if mean == 0.0 { 1e-5 } else { 1e-3 }).with_norm(outputs);
                let verdict = verify(&case, device, 1).unwrap();
                assert!(verdict.error <= verdict.bound.max(bound), "{name}: {case}: error {}", verdict.error);
            }
        }
    };
    for set in InstructionSet::available() {
        check(&CpuDevice::with_instructions(Some(3), set).unwrap(), set.name(), 0.0);
    }
    // Each product of rounded operands is off by up to 2^-8.
    for set in BfloatSet::available() {
        check(&*bfloat_device(set, 3), set.name(), 2f64.powi(-8));
    }
}

/// Whoever norms and rectifies what it reads must not make a number of what is none.
#[test]
fn nan_stays_through_norms_that_are_applied_where_they_are_read() {
    let check = |device: &dyn Device, name: &str| {
        let conv = Conv::same(3);
        let filter = |outputs, inputs| Shape::Filter { outputs, inputs, height: 3, width: 3 };
        let overlapping = MaxPool { kernel: 3, stride: 2, padding: 1 };
        for (op, channels, filter) in [
            (Op::from(conv), 16, Some(filter(16, 16))),
            (Op::from(conv), 5, Some(filter(7, 5))),
            (Op::from(overlapping), 16, None),
        ] {
            let maps = Shape::maps(1, channels, 14, 14);
            let operands: Vec<Shape> = [maps].into_iter().chain(filter).collect();
            let case = Case::new(op, &operands, Data::Integers).of_normed(1, channels, true);
            let mut graph = Graph::new();
            let ids: Vec<ValueId> = case.inputs.iter().map(|&(shape, _)| graph.input("operand", shape)).collect();
            let behind = operands.len();
            let of_norm = [ids[0], ids[behind], ids[behind + 1], ids[behind + 2]];
            let normed = graph.apply_one("normed", Normalise, &of_norm).unwrap();
            let rectified = graph.relu("rectified", normed).unwrap();
            let made = graph.apply_one("case", case.op.clone(), &[&[rectified], &ids[1..behind]].concat()).unwrap();
            let program = Program::lower(&graph, &[made], device, Placement::Shared).unwrap();
            assert_eq!(program.steps().len(), 1, "{name}: {case}");
            let mut session = device.load(program).unwrap();
            for (id, tensor) in ids.iter().zip(case.draw(3)) {
                session.write(*id, tensor.data()).unwrap();
            }
            let mut x = case.draw(3)[0].clone();
            x.data_mut().fill(f32::NAN);
            session.write(ids[0], x.data()).unwrap();
            session.run().unwrap();
            let numbers = session.read(made).unwrap().data().iter().filter(|x| !x.is_nan()).count();
            assert_eq!(numbers, 0, "{name}: {case}");
        }
    };
    for set in InstructionSet::available() {
        check(&CpuDevice::with_instructions(Some(2), set).unwrap(), set.name());
    }
    for set in BfloatSet::available() {
        check(&*bfloat_device(set, 2), set.name());
    }
}

/// A CPU device that multiplies bfloat16 by certain instructions.
fn bfloat_device(set: BfloatSet, threads: usize) -> Box<dyn Device> {
    CpuDevice::new(Some(threads)).unwrap().with_bfloat(set).unwrap().with_precision(Precision::BFloat16).unwrap()
}

#[test]
fn products_of_bfloat16_agree_with_the_reference_on_every_case_and_instruction_set() {
    for set in BfloatSet::available() {
        let device = CpuDevice::new(Some(2)).unwrap().with_bfloat(set).unwrap();
        let mut rounded = 0;
        for check in Check::all().unwrap() {
            if matches!(check, Check::Rounded(_, Precision::BFloat16)) {
                let verdict = check.run(&device, 1).unwrap();
                assert!(verdict.passed(), "{}: {check}: {} of {}", set.name(), verdict.error, verdict.bound);
                rounded += 1;
            }
        }
        println!("{}: {rounded} checks", set.name());
        assert!(rounded > 100, "{rounded}");
    }
    if !BfloatSet::available().contains(&BfloatSet::Amx) {
        println!(
            "skipped: AMX-BF16, which this processor lacks; its kernels run by emulation in device::cpu::bfloat::tests"
        );
    }
    if !BfloatSet::available().contains(&BfloatSet::Avx512) {
        println!("skipped: AVX-512 BF16, which this processor lacks");
    }
}

#[test]
fn convolutions_of_bfloat16_agree_with_the_reference_whatever_the_padding_and_the_kernel() {
    // (batch, channels in, channels out, height, width, kernel, padding, dilation, stride)
    let table = [
        (1, 16, 16, 17, 12, (3, 3), 0, 1, 1),
        (2, 24, 40, 13, 14, (3, 3), 2, 1, 1),
        (1, 17, 8, 9, 50, (3, 3), 1, 1, 2),
        (3, 128, 72, 7, 5, (1, 1), 0, 1, 1),
        (1, 140, 130, 16, 33, (1, 1), 0, 1, 2),
        (1, 16, 32, 30, 31, (7, 7), 3, 1, 2),
        (1, 200, 65, 11, 20, (3, 3), 5, 5, 1),
        (2, 32, 16, 20, 7, (2, 4), 1, 1, 1),
        (1, 512, 24, 5, 6, (3, 3), 1, 1, 1),
    ];
    for set in BfloatSet::available() {
        let device = CpuDevice::new(Some(3)).unwrap().with_bfloat(set).unwrap();
        for (batch, inputs, outputs, height, width, kernel, padding, dilation, stride) in table {
            let conv = Conv { stride, padding, dilation };
            let w = Shape::Filter { outputs, inputs, height: kernel.0, width: kernel.1 };
            let operands = [Shape::maps(batch, inputs, height, width), w, Shape::Channels { channels: outputs }];
            for data in [Data::Integers, Data::Normal(0.0)] {
                let case = Case::new(conv, &operands, data).with_relu();
                let verdict = verify_rounded(&case, Precision::BFloat16, &device, 1).unwrap();
                assert!(verdict.passed(), "{}: {case}: error {}", set.name(), verdict.error);
            }
        }
    }
}

#[test]
fn a_verdict_says_what_its_error_counts_though_the_device_has_a_say_in_it() {
    let device = CpuDevice::new(Some(2)).unwrap().with_bfloat(BfloatSet::Portable).unwrap();
    // In float32 and in bfloat16. From 16 channels on tiles of 4x4 results lose digits of whole numbers, too, and products are
    // of bfloat16 where they are to be; of fewer channels they are not.
    for (channels, data, measures) in [
        (16, Data::Integers, [Measure::RelativeL2, Measure::Exact]),
        (16, Data::Normal(0.0), [Measure::RelativeL2, Measure::Share]),
        (5, Data::Integers, [Measure::Exact; 2]),
        (5, Data::Normal(0.0), [Measure::RelativeL2; 2]),
    ] {
        let filter = Shape::Filter { outputs: 24, inputs: channels, height: 3, width: 3 };
        let conv = Conv { stride: 1, padding: 2, dilation: 1 };
        let case = Case::new(conv, &[Shape::maps(2, channels, 13, 14), filter], data);
        let in_float32 = verify(&case, &device, 1).unwrap();
        let in_bfloat16 = verify_rounded(&case, Precision::BFloat16, &device, 1).unwrap();
        for (verdict, measure) in [in_float32, in_bfloat16].into_iter().zip(measures) {
            assert!(verdict.passed(), "{case}: {} of {}", verdict.error, verdict.bound);
            assert_eq!(verdict.measure, measure, "{case}");
            assert_eq!(verdict.bound == 0.0, measure == Measure::Exact, "{case}");
        }
    }
}

#[test]
fn convolutions_of_bfloat16_have_the_same_bits_however_many_threads_share_the_work() {
    let conv = Conv::same(3);
    let w = Shape::Filter { outputs: 72, inputs: 40, height: 3, width: 3 };
    let case = Case::new(conv, &[Shape::maps(2, 40, 37, 21), w], Data::Normal(0.0));
    for set in BfloatSet::available() {
        let alone = conv_bits(&case, &*bfloat_device(set, 1));
        for threads in [2, 3, 16] {
            assert_eq!(conv_bits(&case, &*bfloat_device(set, threads)), alone, "{} on {threads} threads", set.name());
        }
    }
}

#[test]
fn a_filter_that_is_kept_transformed_is_not_given_back() {
    let device = CpuDevice::new(Some(1)).unwrap();
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(1, 16, 12, 12));
    let w = graph.state("w", Shape::Filter { outputs: 16, inputs: 16, height: 3, width: 3 });
    let y = graph.conv("y", x, w, None, Conv::same(3)).unwrap();
    for (outputs, given_back) in [(vec![y], false), (vec![y, w], true)] {
        let program = Program::lower(&graph, &outputs, &device, Placement::Shared).unwrap();
        assert_eq!(program.steps()[0].filter_is_its_own, !given_back);
        let mut session = device.load(program).unwrap();
        let filter = Tensor::from_fn(graph.shape(w), |i| (i as f32).sin());
        session.write(w, filter.data()).unwrap();
        match session.read(w) {
            Ok(read) => assert!(given_back && read.data() == filter.data()),
            Err(error) => assert!(!given_back && error.to_string().contains("w is kept transformed"), "{error}"),
        }
    }
}

#[test]
fn every_operator_has_a_case() {
    let with_cases: BTreeSet<&str> = all_cases().iter().map(|case| case.op.variant()).collect();
    assert_eq!(with_cases, Op::VARIANTS.iter().copied().collect::<BTreeSet<_>>());
}

/// A norm of a norm with whatever may follow; the first one's buffer is free to be taken over.
fn epilogue_graph(residual: bool, relu: bool) -> (Graph, Vec<ValueId>, ValueId) {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::maps(2, 9, 7, 5));
    let other = graph.input("other", Shape::maps(2, 9, 7, 5));
    let (gamma, beta) = (Shape::Channels { channels: 9 }, Shape::Channels { channels: 9 });
    let (gamma, beta) = (graph.state("gamma", gamma), graph.state("beta", beta));
    let mut y = graph.scale("scaled", x, 3.0).unwrap();
    y = graph.instance_norm("norm", y, gamma, beta).unwrap();
    if residual {
        y = graph.add("residual", other, y).unwrap();
    }
    if relu {
        y = graph.relu("relu", y).unwrap();
    }
    (graph, vec![x, other, gamma, beta], y)
}

#[test]
fn fused_epilogues_and_results_in_place_compute_what_the_graph_says() {
    check_fused_epilogues(&CpuDevice::new(Some(2)).unwrap());
}

#[cfg(feature = "emulator")]
#[test]
fn fused_epilogues_and_results_in_place_compute_what_the_graph_says_on_the_emulated_gpu() {
    use coronet::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
    for schedule in Schedule::ALL {
        check_fused_epilogues(&CudaDevice::new(EmulatedDriver::new(schedule)));
    }
}

fn check_fused_epilogues(device: &dyn Device) {
    for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
        let (graph, inputs, y) = epilogue_graph(residual, relu);
        let wave = |id: ValueId| Tensor::from_fn(graph.shape(id), |i| ((i + 7 * id.index()) as f32 * 0.7).sin());
        let data: Vec<(ValueId, Tensor)> = inputs.iter().map(|&id| (id, wave(id))).collect();
        let wide: Vec<(ValueId, Tensor<f64>)> = data.iter().map(|(id, t)| (*id, t.to_f64())).collect();
        let expected = &graph.evaluate(&wide).unwrap()[y.index()];
        for placement in [Placement::Shared, Placement::Isolated { guard: 16 }] {
            let program = Program::lower(&graph, &[y], device, placement).unwrap();
            assert_eq!(program.steps().len(), 2, "all that follows the norm is folded into it");
            let scaled = program.steps()[0].outputs[0];
            let in_place = program.span(scaled) == program.span(y);
            assert_eq!(in_place, placement == Placement::Shared);
            let mut session = device.load(program).unwrap();
            for (id, tensor) in data.iter().filter(|(id, _)| residual || *id != inputs[1]) {
                session.write(*id, tensor.data()).unwrap();
            }
            session.run().unwrap();
            let error = relative_l2(session.read(y).unwrap().data(), expected.data());
            assert!(error < 1e-5, "residual {residual}, relu {relu}: {error}");
        }
    }
}

#[test]
fn bilinear_taps_have_half_pixel_centres_and_clamped_edges() {
    let taps =
        |source, target| bilinear_taps(source, target).iter().map(|t| (t.low, t.high, t.fraction)).collect::<Vec<_>>();
    assert_eq!(taps(2, 4), [(0, 1, 0.0), (0, 1, 0.25), (0, 1, 0.75), (1, 1, 0.25)]);
    assert_eq!(taps(1, 2), [(0, 0, 0.0), (0, 0, 0.25)]);
    assert_eq!(taps(4, 2), [(0, 1, 0.5), (2, 3, 0.5)]);
}

#[test]
fn pooling_cells_stay_inside_the_map() {
    let overlapping = MaxPool { kernel: 3, stride: 2, padding: 1 };
    let cells =
        |pool: MaxPool, size| (0..pool.output_size(size).unwrap()).map(|i| pool.cell(i, size)).collect::<Vec<_>>();
    assert_eq!(cells(overlapping, 6), [0..2, 1..4, 3..6]);
    assert_eq!(cells(overlapping, 5), [0..2, 1..4, 3..5]);
    assert_eq!(cells(MaxPool::tiled(3), 7), [0..3, 3..6]);
}
