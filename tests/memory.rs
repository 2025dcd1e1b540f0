//! The whole w = 64 network at 448x448 in one process: it must fit in a small machine. Alone in its file, because peak
//! memory is the process's.

use coronet::device::cpu::CpuDevice;
use coronet::media::Size;
use coronet::model::{Config, Stem};
use coronet::segment::{EngineNetwork, WindowNetwork};
use coronet::weights::Weights;

/// Most memory this process has ever had, in MB, where the system says so.
fn peak_megabytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kilobytes| kilobytes / 1000)
}

#[test]
fn the_articles_network_runs_in_well_under_1500_megabytes() {
    let config = Config::new(64, Stem::Half, 2, 1).unwrap();
    let weights = Weights::seeded(config, 1).unwrap();
    let size = Size { width: 448, height: 448 };
    let mut network = EngineNetwork::load(&weights, &CpuDevice::new(None).unwrap(), size).unwrap();
    drop(weights);
    let frame: Vec<f32> = (0..size.area()).map(|i| (i as f32 * 0.01).sin()).collect();
    let mut probability = vec![f32::NAN; size.area()];
    network.run(&[&frame[..]; 5], &mut probability).unwrap();
    assert!(probability.iter().all(|p| (0.0..=1.0).contains(p)));
    match peak_megabytes() {
        Some(peak) => assert!(peak < 600, "{peak} MB"),
        None => println!("skipped: this system does not tell a process's peak memory"),
    }
}
