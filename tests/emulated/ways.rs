//! Ways to cut convolutions: all are right, and a table of them changes who computes what, not what is computed.

use super::*;
use coronet::device::Session;
use coronet::device::cuda::{Key, Measured, Runs, Way, Ways};
use coronet::graph::{Graph, Shape, ValueId};
use coronet::model::{CeNet, Config, Stem};
use coronet::new_file::NewFile;
use coronet::ops::Conv;
use coronet::program::{Placement, Program};
#[cfg(not(coronet_checked))]
use coronet::verify::deep_cases;
use coronet::verify::relative_l2;
use coronet::weights::Weights;
use std::sync::Arc;
#[cfg(not(coronet_checked))]
use std::time::Duration;

fn of(architecture: Architecture, precision: Precision) -> CudaDevice {
    let device = CudaDevice::new(EmulatedDriver::of(architecture, Schedule::ALL[1]));
    device.with_precision(precision).unwrap().as_cuda().unwrap().clone()
}

/// A way by its text.
fn way(text: &str) -> Way {
    text.parse().unwrap()
}

fn measured(way: Way, microseconds: f64) -> Measured {
    Measured { way, microseconds }
}

/// A table of one way.
fn table(device: &CudaDevice, key: Key, way: Way) -> Ways {
    let mut ways = Ways::none_of(device);
    ways.set(key, measured(way, 1.0), measured(way, 2.0));
    ways
}

/// Whether a way is possible for the convolution of a case.
#[cfg(not(coronet_checked))]
fn is_possible(way: Way, case: &Case, device: &CudaDevice) -> bool {
    let mut graph = Graph::new();
    let operands: Vec<ValueId> =
        case.inputs[..case.operands()].iter().map(|&(shape, _)| graph.input("operand", shape)).collect();
    let result = graph.apply("case", case.op.clone(), &operands).unwrap();
    let program = Program::lower(&graph, &result, device, Placement::Shared).unwrap();
    device.possible_ways(&program).into_iter().flatten().any(|(_, ways)| ways.contains(&way))
}

#[cfg(not(coronet_checked))] // the checked build would take minutes
#[test]
fn every_way_agrees_with_the_reference_where_it_is_possible() {
    let cases: Vec<Case> = deep_cases().into_iter().chain(convolutions()).collect();
    let in_float16 = of(Architecture::Sm90, Precision::Float16);
    let mut without_case = Vec::new();
    // What tiles compute is asked for elsewhere, with each of them.
    let ways = Way::all().into_iter().filter(|way| !matches!(way, Way::Tile(_)));
    for (number, way) in ways.enumerate() {
        let device = CudaDevice::new(EmulatedDriver::of(Architecture::Sm90, Schedule::ALL[number % 3])).with_way(way);
        let possible: Vec<&Case> = cases.iter().filter(|case| is_possible(way, case, &in_float16)).collect();
        if possible.is_empty() {
            without_case.push(way.to_string());
            continue;
        }
        // Where there are many, some of them.
        let step = possible.len().div_ceil(8);
        let some = possible.iter().skip(number % step).step_by(step);
        let checks = some.map(|&case| Check::Rounded(case.clone(), Precision::Float16));
        let findings = assert_agreement(checks, &device);
        println!("{way}: {} of {} cases", findings.len(), possible.len());
        let kernel = if matches!(way, Way::Patches { .. }) { "conv_patches" } else { "conv_warpgroups" };
        for finding in findings {
            let kernels = finding.verdict.as_ref().unwrap().kernels.clone();
            assert!(kernels.iter().any(|name| name.starts_with(kernel)), "{way}: {finding:?}");
        }
    }
    // Each width and each number of shares has some.
    assert_eq!(without_case, ["patches 128x1 shares 3", "patches 128x1 shares 4"]);
}

/// A convolution alone: graph, maps, filter, result.
fn convolution(channels: usize, outputs: usize, side: usize, kernel: usize) -> (Graph, [ValueId; 3]) {
    let mut graph = Graph::new();
    let maps = graph.input("maps", Shape::Maps { batch: 1, channels, height: side, width: side });
    let filter = Shape::Filter { outputs, inputs: channels, height: kernel, width: kernel };
    let filter = graph.input("filter", filter);
    let result = graph.apply_one("conv", Conv::same(kernel), &[maps, filter]).unwrap();
    (graph, [maps, filter, result])
}

/// Kernels and results of a program of [`convolution`], run twice: blocks count on from run to run.
fn run(mut session: Box<dyn Session>, [maps, filter, result]: [ValueId; 3]) -> (Vec<&'static str>, Vec<f32>) {
    for (id, step) in [(maps, 0.7), (filter, 1.3)] {
        let numbers = session.program().value(id).shape.elements();
        session.write(id, &(0..numbers).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>()).unwrap();
    }
    session.run().unwrap();
    session.run().unwrap();
    (session.kernels(0), session.read(result).unwrap().into_data())
}

#[test]
fn a_table_changes_the_kernel_and_not_the_bits() {
    for (precision, tile, kernel) in [
        (Precision::Tf32, "tile 64x64", "conv_tf32_64x64"),
        (Precision::Tf32, "tile 128x64", "conv_tf32_128x64"),
        (Precision::BFloat16, "tile 64x64", "conv_bfloat16_64x64"),
    ] {
        let device = of(Architecture::Sm80, precision);
        let (graph, ids) = convolution(40, 48, 12, 1);
        let lower = |device: &CudaDevice| Program::lower(&graph, &ids[2..], device, Placement::Shared).unwrap();
        let program = lower(&device);
        let (key, ways) = device.possible_ways(&program)[0].clone().unwrap();
        assert!(ways[0] == way("tile 64x32") && ways.contains(&way(tile)), "{ways:?}");
        let (usual, expected) = run(device.load(program.clone()).unwrap(), ids);
        let tuned = device.clone().with_ways(Arc::new(table(&device, key, way(tile))));
        let (kernels, got) = run(tuned.load(lower(&tuned)).unwrap(), ids);
        assert_eq!(kernels.last(), Some(&kernel));
        assert_eq!((kernels.len(), kernels == usual), (usual.len(), false));
        assert!(got == expected, "{precision}, {tile}");
        // Of another convolution, or impossible, a way is not taken.
        let none = [table(&device, key, way("patches 8x16 shares 1")), Ways::none_of(&device)];
        for ways in none {
            assert_eq!(run(device.clone().with_ways(Arc::new(ways)).load(program.clone()).unwrap(), ids).0, usual);
        }
        // One tile for all comes before a table.
        assert_eq!(run(tuned.with_tile(Tile::ALL[2]).load(program).unwrap(), ids).0, usual);
    }
}

#[test]
fn shares_of_a_table_need_a_program_that_has_room_for_them() {
    let device = of(Architecture::Sm80, Precision::Float16);
    // Five slices of channels and a patch for each of eight multiprocessors: shares would only make them wait.
    let (graph, ids) = convolution(160, 32, 32, 3);
    let lower = |device: &CudaDevice| Program::lower(&graph, &ids[2..], device, Placement::Shared).unwrap();
    let program = lower(&device);
    let (key, ways) = device.possible_ways(&program)[0].clone().unwrap();
    let Way::Patches { width_log2, shares: 1 } = ways[0] else { panic!("{ways:?}") };
    let shared = Way::Patches { width_log2, shares: 3 };
    let tuned = device.clone().with_ways(Arc::new(table(&device, key, shared)));
    assert!(ways.contains(&shared) && !ways.contains(&Way::Patches { width_log2, shares: 4 }), "{ways:?}");
    let (_, usual) = run(device.load(program.clone()).unwrap(), ids);
    let (_, got) = run(tuned.load(lower(&tuned)).unwrap(), ids);
    let wide: Vec<f64> = usual.iter().map(|&x| f64::from(x)).collect();
    let error = relative_l2(&got, &wide);
    assert!(error > 0.0 && error < 1e-3, "sums in another order: {error:e}");
    // The rule's way, in the program that has room for no other.
    assert!(run(tuned.load(program).unwrap(), ids).1 == usual);
    // And the other way round.
    assert!(run(device.load(lower(&tuned)).unwrap(), ids).1 == usual);
}

/// A small network with numbers, on a device.
fn network(device: &CudaDevice) -> coronet::Result<Box<dyn Session>> {
    let config = Config::new(4, Stem::Half, 0, 1)?;
    let network = CeNet::build(config, 1, 96, 96)?;
    let program = Program::lower(&network.graph, &[network.probability], device, Placement::Shared)?;
    let mut session = device.load(program)?;
    Weights::seeded(config, 5)?.write_into(&network, |id, numbers| session.write(id, numbers))?;
    let numbers = network.graph.shape(network.window).elements();
    session.write(network.window, &(0..numbers).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>())?;
    Ok(session)
}

#[test]
fn a_network_has_the_same_steps_with_a_table_and_computes_the_same() {
    let device = of(Architecture::Sm90, Precision::Float16);
    let usual = network(&device).unwrap();
    let possible = device.possible_ways(usual.program());
    let mut ways = Ways::none_of(&device);
    for (key, possible) in possible.iter().flatten() {
        let last = possible[possible.len() - 1];
        ways.set(*key, measured(last, 1.0), measured(possible[0], 2.0));
    }
    let tuned = device.clone().with_ways(Arc::new(ways));
    let described = tuned.describe();
    assert!(described.ends_with("products in float16, tuned"), "{described}");
    let mut sessions = [usual, network(&tuned).unwrap()];
    let outputs = sessions.each_mut().map(|session| {
        session.run().unwrap();
        let output = session.program().outputs()[0];
        session.read(output).unwrap().into_data()
    });
    let [usual, tuned] = &sessions;
    let steps = |session: &dyn Session| -> Vec<String> {
        let steps = session.program().steps().iter();
        steps.map(|step| format!("{} {:?} {:?} {:?}", step.name, step.epilogue, step.inputs, step.outputs)).collect()
    };
    assert_eq!(steps(&**usual), steps(&**tuned));
    let kernels = |session: &dyn Session| {
        (0..session.program().steps().len()).map(|step| session.kernels(step)).collect::<Vec<_>>()
    };
    let (usual, tuned) = (kernels(&**usual), kernels(&**tuned));
    let changed = usual.iter().zip(&tuned).filter(|(usual, tuned)| usual != tuned).count();
    assert!(changed > 10, "{changed}");
    let wide: Vec<f64> = outputs[0].iter().map(|&x| f64::from(x)).collect();
    let error = relative_l2(&outputs[1], &wide);
    assert!(error > 0.0 && error < 1e-2, "{error:e}");
}

#[cfg(not(coronet_checked))] // times of the checked build say even less
#[test]
fn what_is_measured_is_one_of_what_is_possible_and_is_read_as_it_was_written() {
    let device = of(Architecture::Sm80, Precision::Float16);
    let mut passes = 0;
    let tuned = device.tune(Runs::ONE, &mut |device| network(device), &mut |done, all| {
        passes += 1;
        done < all
    });
    let tuned = tuned.unwrap();
    assert!(tuned.by_rule > Duration::ZERO && tuned.by_best > Duration::ZERO);
    let tuned = tuned.convolutions;
    let program = network(&device).unwrap();
    let possible: Vec<_> = device.possible_ways(program.program()).into_iter().flatten().collect();
    assert_eq!(tuned.iter().map(|it| it.steps).sum::<usize>(), possible.len());
    let mut ways = Ways::none_of(&device);
    for it in &tuned {
        let (_, of_key) = possible.iter().find(|(key, _)| *key == it.key).unwrap();
        assert_eq!((it.rule.way, it.ways), (of_key[0], of_key.len()));
        assert!(of_key.contains(&it.best.way) && it.best.microseconds > 0.0);
        ways.set(it.key, it.best, it.rule);
    }
    assert_eq!(passes, 1 + tuned.iter().map(|it| it.ways).max().unwrap());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ways.json");
    ways.write(NewFile::create(&path).unwrap()).unwrap();
    let read = Ways::read(&path).unwrap();
    assert_eq!((read.len(), read.file()), (ways.len(), Some(&*path)));
    assert!(tuned.iter().all(|it| read.get(&it.key) == Some(it.best.way)));
    assert!(read.check_device(&device).is_ok() && read.are_of_this_build());
    let other = read.check_device(&of(Architecture::Sm90, Precision::Float16)).unwrap_err().to_string();
    assert!(other.contains("is a table of ways of emulated GPU, sm_80, 8 multiprocessors, not of"), "{other}");
    let again = folder.path().join("again.json");
    read.write(NewFile::create(&again).unwrap()).unwrap();
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&path).unwrap());

    let stopped = device.tune(Runs::ONE, &mut |device| network(device), &mut |_, _| false);
    assert!(matches!(stopped, Err(coronet::Error::Interrupted)));
    let float32 = of(Architecture::Sm80, Precision::Float32);
    let problem = float32.tune(Runs::ONE, &mut |device| network(device), &mut |_, _| true).unwrap_err().to_string();
    assert!(problem.starts_with("there is nothing to choose"), "{problem}");
}
