//! One frame through the whole network on the CPU: w = 64, N = 2, 448x448, both stems, seeded weights.
//!
//! `cargo bench --bench frame`. Ratios to other engines come from `tools/compare_cpu.py`.

use coronet::device::Device;
use coronet::device::cpu::CpuDevice;
use coronet::model::{CeNet, Config, Stem};
use coronet::program::{Placement, Program};
use coronet::weights::Weights;
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

fn frame(criterion: &mut Criterion) {
    let device = CpuDevice::new(None).expect("the CPU device starts");
    let mut group = criterion.benchmark_group(format!("frame 448x448 w=64 N=2 ({})", device.describe()));
    group.sample_size(10).warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(10));
    for stem in [Stem::Half, Stem::Quarter] {
        let config = Config::new(64, stem, 2, 1).expect("a valid configuration");
        let network = CeNet::build(config, 1, 448, 448).expect("a valid size");
        let program = Program::lower(&network.graph, &[network.probability], &device, Placement::Shared)
            .expect("inference lowers");
        let mut session = device.load(program).expect("the arena fits");
        let weights = Weights::seeded(config, 1).expect("a valid configuration");
        weights.write_into(&network, |id, numbers| session.write(id, numbers)).expect("shapes agree");
        let window: Vec<f32> = (0..5 * 448 * 448).map(|i| (i as f32 * 0.37).sin()).collect();
        session.write(network.window, &window).expect("shapes agree");
        group.bench_function(format!("stem {stem}"), |bench| bench.iter(|| session.run().expect("the CPU runs")));
    }
    group.finish();
}

criterion_group!(benches, frame);
criterion_main!(benches);
