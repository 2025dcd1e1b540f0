//! How many blocks of a kernel a multiprocessor holds at once, told from what ptxas says of the kernel: without a GPU.

use super::driver::{Address, Driver, Launch, Moments, Recording};
use super::memory::Memory;
use super::{CudaDevice, Formats, bind, counters_of};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::program::Program;
use std::ptr::NonNull;
use std::sync::Arc;

/// What ptxas says of a kernel for an architecture.
struct Resources {
    kernel: &'static str,
    architecture: u32,
    /// Of a thread.
    registers: u32,
    /// Of a block, beside what a launch adds.
    shared_bytes: u32,
}

include!(concat!(env!("OUT_DIR"), "/resources.rs"));

fn resources_of(kernel: &str, architecture: u32) -> Option<&'static Resources> {
    RESOURCES.iter().find(|resources| resources.kernel == kernel && resources.architecture == architecture)
}

/// What a multiprocessor of an architecture can hold at once, and how many a well-known GPU of it has. From NVIDIA's
/// "Technical Specifications per Compute Capability".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multiprocessor {
    /// 90 for sm_90.
    pub architecture: u32,
    /// Threads.
    pub threads: u32,
    /// Blocks.
    pub blocks: u32,
    /// Bytes of shared memory.
    pub shared_bytes: u32,
    /// A GPU that has it.
    pub gpu: &'static str,
    /// Multiprocessors of that.
    pub count: u32,
}

/// Registers of a multiprocessor, in four equal parts.
const REGISTERS: u32 = 65536;
const PARTS: u32 = 4;
/// Registers are given to warps in such units.
const REGISTER_UNIT: u32 = 256;
const WARP: u32 = 32;

const fn multiprocessor(
    architecture: u32,
    threads: u32,
    blocks: u32,
    shared_kilobytes: u32,
    gpu: &'static str,
    count: u32,
) -> Multiprocessor {
    Multiprocessor { architecture, threads, blocks, shared_bytes: shared_kilobytes << 10, gpu, count }
}

impl Multiprocessor {
    /// Every architecture that kernels are compiled for.
    pub const ALL: [Multiprocessor; 9] = [
        multiprocessor(75, 1024, 16, 64, "T4", 40),
        multiprocessor(80, 2048, 32, 164, "A100", 108),
        multiprocessor(86, 1536, 16, 100, "RTX 3090", 82),
        multiprocessor(87, 1536, 16, 164, "Jetson AGX Orin 64 GB", 16),
        multiprocessor(89, 1536, 24, 100, "RTX 4090", 128),
        multiprocessor(90, 2048, 32, 228, "H100 SXM, H200", 132),
        multiprocessor(100, 2048, 32, 228, "B200", 148),
        multiprocessor(110, 1536, 24, 228, "Jetson AGX Thor", 20),
        multiprocessor(120, 1536, 24, 100, "RTX 5090", 170),
    ];

    /// That of an architecture, if it is known.
    pub fn of(architecture: u32) -> Option<Multiprocessor> {
        Multiprocessor::ALL.into_iter().find(|multiprocessor| multiprocessor.architecture == architecture)
    }

    /// How many blocks it holds at once, of `threads` threads of so many registers each and so many bytes of shared
    /// memory; 0 where not even one fits.
    pub fn blocks_at_once(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        let warps = threads.div_ceil(WARP).max(1);
        let by_warps = self.threads / WARP / warps;
        let of_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
        let by_registers = REGISTERS / PARTS / of_warp * PARTS / warps;
        // From sm_80 on every block has a kilobyte that the system uses.
        let (unit, reserved) = if self.architecture >= 80 { (128, 1024) } else { (256, 0) };
        let of_block = (shared_bytes + reserved).next_multiple_of(unit);
        let by_shared = self.shared_bytes.checked_div(of_block).unwrap_or(u32::MAX);
        self.blocks.min(by_warps).min(by_registers).min(by_shared)
    }
}

/// A launch as it would be on a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedLaunch {
    /// The step of the program that it belongs to.
    pub step: usize,
    /// The kernel.
    pub kernel: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block.
    pub shared_bytes: u32,
    /// Blocks that a multiprocessor holds at once.
    pub blocks_at_once: u32,
    /// How often all multiprocessors of the GPU are filled: blocks by what they hold at once.
    pub waves: f64,
}

/// A device that only plans.
#[derive(Debug, Clone, Copy)]
struct Paper {
    multiprocessor: Multiprocessor,
}

impl CudaDevice {
    /// A device of an architecture that computes nothing: programs are lowered for it, and [`CudaDevice::plan`] says
    /// what they would launch.
    ///
    /// # Errors
    /// [`Error::Device`] when the architecture is not known, this build has no code for it, or it does not multiply in
    /// `precision`.
    pub fn on_paper(architecture: u32, precision: Precision) -> Result<CudaDevice> {
        let is_built_for = RESOURCES.iter().any(|resources| resources.architecture == architecture);
        let multiprocessor = Multiprocessor::of(architecture).filter(|_| is_built_for).ok_or_else(|| {
            let built_for = env!("CORONET_KERNELS_FOR");
            Error::Device(format!("this build has no code for sm_{architecture}; it has some for {built_for}"))
        })?;
        let device = CudaDevice::new(Paper { multiprocessor });
        device.with_precision(precision)?;
        Ok(CudaDevice { precision, ..device })
    }

    /// The launches of a program that was lowered for this device, in order.
    ///
    /// # Errors
    /// [`Error::Device`] when this build has no code of a kernel for the architecture.
    pub fn plan(&self, program: &Program) -> Result<Vec<PlannedLaunch>> {
        let multiprocessor = Multiprocessor::of(self.driver.architecture());
        let multiprocessor = multiprocessor.ok_or_else(|| Error::Device("nothing is known of this GPU".into()))?;
        let paper: Arc<dyn Driver> = Arc::new(Paper { multiprocessor });
        let arena = Memory::unwritten(&paper, program.arena_len())?;
        let formats = Formats::of(self, program);
        let counters = counters_of(&CudaDevice { driver: paper, ..self.clone() }, program, &formats)?;
        let of_step = |step: usize| {
            bind(self, program, step, &arena, &counters, &formats).into_iter().map(move |launch| (step, launch))
        };
        (0..program.steps().len())
            .flat_map(of_step)
            .map(|(step, launch)| planned(multiprocessor, step, &launch))
            .collect()
    }
}

fn planned(multiprocessor: Multiprocessor, step: usize, launch: &Launch) -> Result<PlannedLaunch> {
    let architecture = multiprocessor.architecture;
    let resources = resources_of(launch.kernel, architecture)
        .ok_or_else(|| Error::Device(format!("this build has no code of {} for sm_{architecture}", launch.kernel)))?;
    let threads = launch.block.iter().product();
    let shared_bytes = resources.shared_bytes + launch.shared_bytes;
    let blocks_at_once = multiprocessor.blocks_at_once(threads, resources.registers, shared_bytes);
    let blocks: f64 = launch.grid.iter().map(|&blocks| f64::from(blocks)).product();
    Ok(PlannedLaunch {
        step,
        kernel: launch.kernel,
        grid: launch.grid,
        threads,
        registers: resources.registers,
        shared_bytes,
        blocks_at_once,
        waves: blocks / f64::from(blocks_at_once * multiprocessor.count),
    })
}

/// Why nothing can be computed.
fn only_planned() -> Error {
    Error::Device("a device on paper computes nothing".into())
}

impl Driver for Paper {
    fn describe(&self) -> String {
        format!("sm_{} on paper, {} multiprocessors", self.multiprocessor.architecture, self.multiprocessor.count)
    }

    fn name(&self) -> String {
        format!("{} on paper", self.multiprocessor.gpu)
    }

    fn architecture(&self) -> u32 {
        self.multiprocessor.architecture
    }

    fn has_kernel(&self, name: &str) -> bool {
        resources_of(name, self.multiprocessor.architecture).is_some()
    }

    fn blocks_at_once(&self, kernel: &str, threads: u32, shared_bytes: u32) -> usize {
        let Some(resources) = resources_of(kernel, self.multiprocessor.architecture) else { return 0 };
        let shared_bytes = resources.shared_bytes + shared_bytes;
        let blocks = self.multiprocessor.blocks_at_once(threads, resources.registers, shared_bytes);
        (blocks * self.multiprocessor.count) as usize
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessor.count as usize
    }

    fn allocate(&self, _bytes: usize) -> Result<Address> {
        // Any that is not null: nobody looks behind it.
        Ok(Address(1 << 20))
    }

    unsafe fn release(&self, _memory: Address) {}

    fn allocate_host(&self, _bytes: usize) -> Result<NonNull<u8>> {
        Err(only_planned())
    }

    unsafe fn release_host(&self, _memory: NonNull<u8>, _bytes: usize) {}

    unsafe fn start_upload(&self, _to: Address, _bytes: &[u8]) -> Result<()> {
        Err(only_planned())
    }

    unsafe fn start_download(&self, _from: Address, _bytes: &mut [u8]) -> Result<()> {
        Err(only_planned())
    }

    unsafe fn launch(&self, _launch: &Launch) -> Result<()> {
        Err(only_planned())
    }

    unsafe fn record(&self, _launches: &[&Launch]) -> Result<Box<dyn Recording>> {
        Err(only_planned())
    }

    fn synchronise(&self) -> Result<()> {
        Err(only_planned())
    }

    fn moments(&self, _count: usize) -> Result<Box<dyn Moments>> {
        Err(only_planned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_resource_says_how_many_blocks_fit() {
        let hopper = Multiprocessor::of(90).unwrap();
        assert_eq!(hopper.blocks_at_once(1024, 32, 0), 2, "threads");
        assert_eq!(hopper.blocks_at_once(32, 16, 0), 32, "blocks");
        // 128 registers: 4096 a warp, 4 warps in each quarter.
        assert_eq!(hopper.blocks_at_once(128, 128, 0), 4, "registers");
        // 129 are given as 136: 4352 a warp, 3 in each quarter.
        assert_eq!(hopper.blocks_at_once(128, 129, 0), 3, "units of registers");
        // 48 KB and the system's one: 4 of 49 KB in 228 KB.
        assert_eq!(hopper.blocks_at_once(128, 32, 48 << 10), 4, "shared memory");
        assert_eq!(hopper.blocks_at_once(128, 32, 228 << 10), 0, "more than there is");
        assert_eq!(Multiprocessor::of(75).unwrap().blocks_at_once(128, 32, 32 << 10), 2);
        assert_eq!(Multiprocessor::of(70), None);
    }

    /// `None`, and a line that says so, where the build has no code for it.
    fn h100() -> Option<CudaDevice> {
        if !env!("CORONET_KERNELS_FOR").split(", ").any(|name| name.starts_with("90")) {
            println!("skipped: this build has code for {} only", env!("CORONET_KERNELS_FOR"));
            return None;
        }
        Some(CudaDevice::on_paper(90, Precision::Float16).unwrap())
    }

    #[test]
    fn two_blocks_of_warpgroups_fit_where_they_have_one_halo_or_a_small_one() {
        use crate::model::{CeNet, Config, Stem};
        use crate::program::Placement;
        let Some(paper) = h100() else { return };
        let paper = paper.with_warpgroups(true);
        let network = CeNet::build(Config::new(64, Stem::Half, 2, 1).unwrap(), 1, 448, 448).unwrap();
        let program = Program::lower(&network.graph, &[network.probability], &paper, Placement::Shared).unwrap();
        let planned = paper.plan(&program).unwrap();
        let mine: Vec<_> = planned.iter().filter(|launch| launch.kernel.starts_with("conv_warpgroups")).collect();
        for PlannedLaunch { step, kernel, grid, registers, shared_bytes, blocks_at_once, waves, .. } in &mine {
            let name = &program.steps()[*step].name;
            println!("{name}: {kernel} {grid:?}, {registers}, {shared_bytes}, {blocks_at_once}, {waves:.2}");
            // But for the longest dilation, of which one fits.
            assert_eq!(*blocks_at_once, if *shared_bytes > 113 << 10 { 1 } else { 2 }, "{name}");
        }
        assert!(mine.len() > 30, "{}", mine.len());
    }

    #[test]
    fn an_h100_has_warpgroups_to_choose_for_the_network_and_the_rule_comes_first() {
        use super::super::{Tile, Way};
        use crate::model::{CeNet, Config, Stem};
        use crate::program::Placement;
        let Some(paper) = h100() else { return };
        let network = CeNet::build(Config::new(64, Stem::Half, 2, 1).unwrap(), 1, 448, 448).unwrap();
        let program = Program::lower(&network.graph, &[network.probability], &paper, Placement::Shared).unwrap();
        let by_warpgroups = |way: &Way| matches!(way, Way::Warpgroups { .. });
        let (mut count, mut most) = (0, 0);
        for (step, (key, ways)) in
            paper.possible_ways(&program).into_iter().enumerate().filter_map(|(at, it)| Some((at, it?)))
        {
            println!("{}: {key}: {} ways, by rule {}", program.steps()[step].name, ways.len(), ways[0]);
            assert!(!by_warpgroups(&ways[0]) && ways.contains(&Way::Tile(Tile::ALL[2])));
            count += usize::from(ways.iter().any(by_warpgroups));
            most = most.max(ways.len());
        }
        assert!(count > 30 && most <= Way::all().len(), "{count}, {most}");
    }

    #[test]
    fn every_architecture_of_this_build_is_known_and_every_kernel_fits() {
        assert!(!RESOURCES.is_empty());
        for Resources { kernel, architecture, registers, shared_bytes } in RESOURCES {
            let Some(multiprocessor) = Multiprocessor::of(*architecture) else {
                panic!("nothing is known of sm_{architecture}");
            };
            assert!(multiprocessor.blocks_at_once(32, *registers, *shared_bytes) > 0, "{kernel}, sm_{architecture}");
        }
    }
}
