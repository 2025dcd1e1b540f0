//! The most that a GPU can do: arithmetic on numbers in registers, and a copy, by the kernels of `kernels/ceilings.cu`.

use super::driver::{Driver, Launch};
use super::memory::Memory;
use crate::device::{Ceilings, Precision};
use crate::error::Result;
use crate::program::Span;
use std::sync::Arc;
use std::time::Duration;

/// Threads of a block, as the kernels' `THREADS`.
const THREADS: usize = 256;
/// Sums of a thread of `ceiling_float32`.
const CHAINS: usize = 16;
/// Rows and columns of the tile of a warp of the others.
const TILE: usize = 32;
/// The best of so many counts: the first one finds the GPU asleep.
const TRIES: usize = 7;

/// How much is done to be measured.
pub(super) struct Amount {
    /// Float32 numbers that are copied.
    pub numbers: usize,
    /// Blocks that do arithmetic.
    pub blocks: usize,
    /// Multiply-adds that each number of theirs goes through, or products of tiles.
    pub rounds: usize,
}

impl Amount {
    /// A copy of several times the largest second-level cache, and so many blocks that it does not matter how many of the
    /// last ones a multiprocessor gets.
    pub const OF_A_GPU: Amount = Amount { numbers: super::FLUSHED, blocks: 1 << 14, rounds: 256 };
}

pub(super) fn measure(driver: &Arc<dyn Driver>, precision: Precision, amount: &Amount) -> Result<Ceilings> {
    Ok(Ceilings { flops: arithmetic(driver, precision, amount)?, bytes: copy(driver, amount.numbers)? })
}

fn copy(driver: &Arc<dyn Driver>, numbers: usize) -> Result<f64> {
    let [from, to] = [Memory::zeroed(driver, numbers)?, Memory::unwritten(driver, numbers)?];
    let quads = numbers / 4;
    let launch = Launch::of_threads("ceiling_copy", quads, THREADS as u32).with(start_of(&from)).with(start_of(&to));
    let bytes = 2 * quads * 4 * size_of::<f32>();
    Ok(bytes as f64 / best(driver, &launch.with_int(quads))?.as_secs_f64())
}

fn arithmetic(driver: &Arc<dyn Driver>, precision: Precision, amount: &Amount) -> Result<f64> {
    let results = Memory::unwritten(driver, amount.blocks * THREADS)?;
    let launch = arithmetic_launch(precision, amount, &results);
    let operations = 2 * products(precision) * amount.blocks * amount.rounds;
    Ok(operations as f64 / best(driver, &launch)?.as_secs_f64())
}

/// Fills `results` with what each thread has summed.
fn arithmetic_launch(precision: Precision, amount: &Amount, results: &Memory) -> Launch {
    let kernel = match precision {
        Precision::Float32 => "ceiling_float32",
        Precision::Tf32 => "ceiling_tf32",
        Precision::Float16 => "ceiling_float16",
        Precision::BFloat16 => "ceiling_bfloat16",
    };
    let launch = Launch::new(kernel, [amount.blocks as u32, 1, 1], [THREADS as u32, 1, 1]);
    launch.with(start_of(results)).with_int(amount.rounds)
}

/// Multiply-adds of a block in a round.
fn products(precision: Precision) -> usize {
    match precision {
        Precision::Float32 => THREADS * CHAINS,
        Precision::Tf32 => THREADS / 32 * TILE * TILE * 8,
        Precision::Float16 | Precision::BFloat16 => THREADS / 32 * TILE * TILE * 16,
    }
}

fn start_of(memory: &Memory) -> super::Address {
    memory.address(Span { offset: 0, len: 0 })
}

fn best(driver: &Arc<dyn Driver>, launch: &Launch) -> Result<Duration> {
    // SAFETY: the launches of this file, whose memory lives until they are measured, as large as the kernels assume.
    let time = || driver.time(&mut || unsafe { driver.launch(launch) });
    (0..TRIES).try_fold(Duration::MAX, |best, _| Ok(best.min(time()?)))
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::super::{EmulatedDriver, Schedule};
    use super::*;

    fn driver() -> Arc<dyn Driver> {
        Arc::new(EmulatedDriver::new(Schedule::ALL[2]))
    }

    /// The sums of all threads after so many rounds.
    fn sums(precision: Precision, rounds: usize) -> Vec<f32> {
        let (driver, amount) = (driver(), Amount { numbers: 0, blocks: 2, rounds });
        let mut sums = vec![f32::NAN; amount.blocks * THREADS];
        let results = Memory::unwritten(&driver, sums.len()).unwrap();
        best(&driver, &arithmetic_launch(precision, &amount, &results)).unwrap();
        results.read(Span { offset: 0, len: sums.len() }, &mut sums).unwrap();
        sums
    }

    #[test]
    fn as_much_is_computed_as_is_counted() {
        // From the thread's number and i on, halfway to 1 in each round.
        let from = |start: usize, rounds: usize| 1.0 + (start as f32 - 1.0) / 2f32.powi(rounds as i32);
        let total = |thread: usize, rounds| (thread..thread + CHAINS).map(|start| from(start, rounds)).sum::<f32>();
        for rounds in [1, 3] {
            let sums = sums(Precision::Float32, rounds);
            assert!(sums.iter().enumerate().all(|(i, &sum)| sum == total(i % THREADS, rounds)), "{rounds}: {sums:?}");
        }
        for precision in [Precision::Tf32, Precision::Float16, Precision::BFloat16] {
            let [once, twice] = [1, 2].map(|rounds| sums(precision, rounds));
            // As far as tensor cores are exact.
            let is_double = |(once, twice): (&f32, &f32)| (twice - 2.0 * once).abs() <= 1e-4 * once.abs().max(1.0);
            assert!(once.iter().zip(&twice).all(is_double), "{precision}: {once:?}, {twice:?}");
            assert!(once.iter().all(|sum| *sum != 0.0), "{precision}: {once:?}");
        }
    }

    #[test]
    fn what_is_copied_arrives() {
        let (driver, len) = (driver(), 4 * 300);
        let [from, to] = [0, 1].map(|_| Memory::unwritten(&driver, len).unwrap());
        let (numbers, mut copied) = ((0..len).map(|i| i as f32).collect::<Vec<_>>(), vec![f32::NAN; len]);
        from.write(Span { offset: 0, len }, &numbers).unwrap();
        let launch = Launch::of_threads("ceiling_copy", len / 4, THREADS as u32);
        best(&driver, &launch.with(start_of(&from)).with(start_of(&to)).with_int(len / 4)).unwrap();
        to.read(Span { offset: 0, len }, &mut copied).unwrap();
        assert_eq!(copied, numbers);
    }

    #[test]
    fn ceilings_are_measured_in_every_precision() {
        for precision in Precision::ALL {
            let Ceilings { flops, bytes } =
                measure(&driver(), precision, &Amount { numbers: 4096, blocks: 2, rounds: 2 }).unwrap();
            assert!((1e5..1e13).contains(&flops) && (1e5..1e13).contains(&bytes), "{precision}: {flops:e}, {bytes:e}");
        }
    }
}
