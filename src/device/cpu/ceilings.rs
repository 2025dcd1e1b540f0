//! The most that this processor can do on the device's threads: fused multiply-adds in registers, or products of bfloat16 from
//! the first-level cache, and a copy.

use super::bfloat::{BfloatKernels, Columns, Product, Run};
use super::microkernel::InstructionSet;
use crate::device::Ceilings;
use half::bf16;
use pulp::{Simd, WithSimd};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums of a thread: more than latency times units of x86 processors (8), and few enough for the registers of
/// AVX2. Processors with four units, as some of Arm, may do a little more than this finds.
const CHAINS: usize = 12;
const ROUNDS: usize = 2_000_000;
/// The best of so many counts: what else runs can only slow it down.
const TRIES: usize = 7;
/// Bytes of each side of the copy where the caches are small.
const LEAST_COPY: usize = 64 << 20;
const MOST_COPY: usize = 512 << 20;

/// Of products in bfloat16 where kernels for them are given, else in float32.
pub(super) fn measure(pool: &ThreadPool, bfloat: Option<BfloatKernels>) -> Ceilings {
    let flops = bfloat.map_or_else(|| arithmetic(pool), |kernels| products(pool, kernels));
    Ceilings { flops, bytes: copy(pool) }
}

/// Lanes, columns and terms of a product of bfloat16, and how often it is added: operands stay in the first-level cache.
const PRODUCT: (usize, usize, usize) = (32, 96, 64);
const PRODUCTS: usize = 64;
const CALLS: usize = 200;

fn products(pool: &ThreadPool, kernels: BfloatKernels) -> f64 {
    let (lanes, columns, depth) = PRODUCT;
    let runs = [Run { left: 0, right: 0 }; PRODUCTS];
    let time = best(|| {
        pool.broadcast(|_| {
            let (a, b) = (vec![bf16::ONE; depth * lanes], vec![bf16::ONE; columns * depth]);
            let right = Columns { first: b.as_ptr(), column: depth, row: 0, count: (1, columns) };
            let mut sums = vec![0.0; right.of_a_row() * lanes];
            let (left, to) = (a.as_ptr(), sums.as_mut_ptr());
            for _ in 0..CALLS {
                // SAFETY: the vectors have these sizes, and the columns are whole tiles.
                unsafe { kernels.sums(&Product { adds: false, lanes, depth, runs: &runs, left, right, sums: to }) };
            }
            black_box(sums);
        });
    });
    (2 * lanes * columns * depth * PRODUCTS * CALLS * pool.current_num_threads()) as f64 / time.as_secs_f64()
}

/// `ROUNDS` multiply-adds on each of `CHAINS` vectors; their sum, and how many operations that were.
struct Chains(f32);

impl WithSimd for Chains {
    type Output = (f32, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, usize) {
        // Towards 1, far from subnormal numbers.
        let (factor, term) = (simd.splat_f32s(self.0), simd.splat_f32s(1.0 - self.0));
        let mut sums: [S::f32s; CHAINS] = std::array::from_fn(|chain| simd.splat_f32s(1.0 + chain as f32));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        (sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum(), 2 * ROUNDS * CHAINS * S::F32_LANES)
    }
}

fn best(mut work: impl FnMut()) -> Duration {
    let time = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    (0..TRIES).map(|_| time(&mut work)).min().unwrap_or(Duration::MAX)
}

fn arithmetic(pool: &ThreadPool) -> f64 {
    let mut operations = 0;
    let time = best(|| {
        let results = pool.broadcast(|_| InstructionSet::best().dispatch(Chains(black_box(0.999))));
        operations = results.iter().map(|(_, operations)| operations).sum();
        black_box(results);
    });
    operations as f64 / time.as_secs_f64()
}

fn copy(pool: &ThreadPool) -> f64 {
    let bytes = super::last_level_cache().map_or(LEAST_COPY, |cache| (2 * cache).clamp(LEAST_COPY, MOST_COPY));
    let (from, mut to) = (vec![1u64; bytes / 8], vec![0u64; bytes / 8]);
    let part = from.len().div_ceil(8 * pool.current_num_threads());
    let time = best(|| {
        pool.install(|| {
            to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        });
        black_box(&to);
    });
    2.0 * bytes as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::BfloatSet;
    use super::*;

    #[test]
    fn sums_tend_to_one_and_operations_are_counted() {
        let (sum, operations) = InstructionSet::best().dispatch(Chains(0.5));
        let lanes = operations / (2 * ROUNDS * CHAINS);
        assert!(lanes >= 1 && operations == 2 * ROUNDS * CHAINS * lanes);
        assert!((sum - (CHAINS * lanes) as f32).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn ceilings_are_those_of_a_computer() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let sets = BfloatSet::available().into_iter().map(|set| Some(BfloatKernels::new(set)));
        for bfloat in sets.chain([None]) {
            let Ceilings { flops, bytes } = measure(&pool, bfloat);
            assert!((1e8..1e13).contains(&flops), "{flops:e}");
            assert!((1e8..1e13).contains(&bytes), "{bytes:e}");
        }
    }
}
