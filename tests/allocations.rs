//! Nothing is allocated while a program runs. Alone in its file: the allocator counts for the whole process.

use coronet::device::Device;
use coronet::device::cpu::CpuDevice;
use coronet::model::{CeNet, Config, Objective, Optimizer, Stem, TrainingStep};
use coronet::program::{Placement, Program};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_while_inference_or_a_training_step_runs() {
    let device = CpuDevice::new(Some(2)).unwrap();
    let config = Config::new(8, Stem::Half, 1, 1).unwrap();
    let network = CeNet::build(config, 1, 96, 96).unwrap();
    let inference = Program::lower(&network.graph, &[network.probability], &device, Placement::Shared).unwrap();
    let training = |objective, optimizer| {
        let step = TrainingStep::build(network.clone(), objective, optimizer).unwrap();
        Program::lower(&step.network.graph, &[step.total_loss], &device, Placement::Shared).unwrap()
    };
    let sgd = training(Objective { rho: 1e-4, ..Objective::default() }, Optimizer::Sgd { momentum: 0.9 });
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let adamw = training(Objective { rho: 0.0, background: 0.5, cross_entropy: 0.5 }, adamw);
    for (what, program) in [("inference", inference), ("training by SGD", sgd), ("training by AdamW", adamw)] {
        let mut session = device.load(program).unwrap();
        // The thread pool's queues take their final size in the first runs.
        for _ in 0..20 {
            session.run().unwrap();
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..20 {
            session.run().unwrap();
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // The pool's queue of arriving jobs takes a new block once in 63 runs; programs allocate nothing themselves.
        assert!(allocations <= 1, "{allocations} allocations in 20 runs of {what}");
    }
}
