//! Small matrix products in registers: the micro-kernels of the `gemm` crate behind one call.
//!
//! The `gemm` crate's own driver packs both operands and allocates on every call; its micro-kernels take any strides,
//! so convolutions can read NHWC maps and blocked filters where they lie, with nothing packed and nothing allocated.

use gemm_f32::microkernel as gemm;
use pulp::{Simd, WithSimd};

type Kernel = unsafe fn(
    usize,
    usize,
    usize,
    *mut f32,
    *const f32,
    *const f32,
    isize,
    isize,
    isize,
    isize,
    isize,
    f32,
    f32,
    u8,
    bool,
    bool,
    bool,
    *const f32,
);

/// Kernels for one number of lanes; `columns[n - 1]` works on `n` columns.
#[derive(Debug, Clone, Copy)]
struct Tile {
    lanes: usize,
    columns: &'static [Kernel],
}

/// The instructions that matrix products use. All give the same sums in the same order; those without fused
/// multiply-add round differently. Elementwise loops always take the widest vectors there are: their bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// x86-64 with AVX-512.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AArch64.
    Neon,
    /// Any processor.
    Portable,
}

impl InstructionSet {
    /// All, best first.
    const ALL: [InstructionSet; 4] =
        [InstructionSet::Avx512, InstructionSet::Avx2, InstructionSet::Neon, InstructionSet::Portable];

    /// Those that this processor has, best first.
    pub fn available() -> Vec<InstructionSet> {
        InstructionSet::ALL.into_iter().filter(|set| set.is_available()).collect()
    }

    /// The best that this processor has.
    #[inline]
    pub(super) fn best() -> InstructionSet {
        InstructionSet::ALL.into_iter().find(|set| set.is_available()).unwrap_or(InstructionSet::Portable)
    }

    #[inline]
    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => pulp::x86::V4::try_new().is_some(),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => pulp::x86::V3::try_new().is_some(),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => true,
            InstructionSet::Portable => true,
            _ => false,
        }
    }

    /// Runs an operation with vectors of these instructions.
    ///
    /// Not by [`pulp::Arch`], which knows only the instructions that features of the crate `pulp` name.
    #[inline]
    pub(super) fn dispatch<W: WithSimd>(self, operation: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        match (self, pulp::x86::V4::try_new(), pulp::x86::V3::try_new()) {
            (InstructionSet::Avx512, Some(simd), _) => return Simd::vectorize(simd, operation),
            (InstructionSet::Avx2, _, Some(simd)) => return Simd::vectorize(simd, operation),
            _ => {}
        }
        #[cfg(target_arch = "aarch64")]
        if let (InstructionSet::Neon, Some(simd)) = (self, pulp::aarch64::Neon::try_new()) {
            return Simd::vectorize(simd, operation);
        }
        // Not the wider vectors of plain numbers: they fuse multiply and add, in a function where the processor cannot.
        Simd::vectorize(pulp::Scalar, operation)
    }

    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            InstructionSet::Avx512 => "AVX-512",
            InstructionSet::Avx2 => "AVX2",
            InstructionSet::Neon => "NEON",
            InstructionSet::Portable => "portable",
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    use super::{Kernel, Tile, gemm};
    use gemm::{avx512f::f32 as avx512, fma::f32 as fma, scalar::f32 as scalar};

    static AVX512: [[Kernel; avx512::NR]; avx512::MR_DIV_N] = avx512::UKR;
    static FMA: [[Kernel; fma::NR]; fma::MR_DIV_N] = fma::UKR;
    static SCALAR: [[Kernel; scalar::NR]; scalar::MR_DIV_N] = scalar::UKR;

    pub(super) static OF_AVX512: [Tile; 4] = [
        Tile { lanes: 64, columns: &AVX512[3] },
        Tile { lanes: 32, columns: &AVX512[1] },
        Tile { lanes: 16, columns: &AVX512[0] },
        Tile { lanes: 8, columns: &FMA[0] },
    ];
    pub(super) static OF_AVX2: [Tile; 2] = [Tile { lanes: 16, columns: &FMA[1] }, Tile { lanes: 8, columns: &FMA[0] }];
    pub(super) static PORTABLE: [Tile; 1] = [Tile { lanes: 2, columns: &SCALAR[1] }];
}

#[cfg(not(target_arch = "x86_64"))]
mod tiles {
    use super::{Kernel, Tile, gemm};
    use gemm::scalar::f32 as scalar;

    static SCALAR: [[Kernel; scalar::NR]; scalar::MR_DIV_N] = scalar::UKR;
    pub(super) static PORTABLE: [Tile; 1] = [Tile { lanes: 2, columns: &SCALAR[1] }];

    #[cfg(target_arch = "aarch64")]
    static NEON: [[Kernel; gemm::neon::f32::NR]; gemm::neon::f32::MR_DIV_N] = gemm::neon::f32::UKR;
    #[cfg(target_arch = "aarch64")]
    pub(super) static OF_NEON: [Tile; 1] = [Tile { lanes: 8, columns: &NEON[1] }];
}

/// One operand of a product: where it starts and how far apart its elements lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub start: *const f32,
    /// From one term of the sum to the next.
    pub term: usize,
    /// From one column to the next; unused for the left operand, whose lanes are contiguous.
    pub column: usize,
}

/// `products += left^T right` in registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct MicroKernels {
    pub set: InstructionSet,
    tiles: &'static [Tile],
}

impl MicroKernels {
    pub fn new(set: InstructionSet) -> MicroKernels {
        let tiles: &'static [Tile] = match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &tiles::OF_AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &tiles::OF_AVX2,
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => &tiles::OF_NEON,
            _ => &tiles::PORTABLE,
        };
        MicroKernels { set, tiles }
    }

    /// How many lanes the widest kernels take at once: of operands that are read in slices of so many, each slice lies in a row.
    pub fn slice(&self) -> usize {
        self.tiles[0].lanes.max(super::layout::LANES)
    }

    /// `products[j][i] += sum over k < terms of left[k][i] right[k][j]` for `i < lanes`, `j < columns`, where lanes are
    /// contiguous in `products` and in `left`. Terms are summed in order, whatever the tile.
    ///
    /// # Safety
    /// All elements are readable, `products` is writable, and nobody else touches `products` meanwhile. The processor
    /// has the instruction set.
    pub unsafe fn accumulate(
        &self,
        size: (usize, usize, usize),
        products: (*mut f32, usize),
        left: Operand,
        right: Operand,
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.multiply(true, size, products, left, right) }
    }

    /// As [`MicroKernels::accumulate`]; unless `adds`, the sums take the place of what `products` holds, which may be
    /// anything.
    ///
    /// # Safety
    /// As [`MicroKernels::accumulate`].
    pub unsafe fn multiply(
        &self,
        adds: bool,
        (lanes, columns, terms): (usize, usize, usize),
        (products, products_column): (*mut f32, usize),
        left: Operand,
        right: Operand,
    ) {
        let mut lane = 0;
        while lane < lanes {
            let Some(tile) = self.tiles.iter().find(|tile| tile.lanes <= lanes - lane) else {
                unreachable!("lanes come in multiples of {}", super::layout::LANES)
            };
            // Blocks as equal as can be: one of few columns would wait for its own sums.
            let (mut column, mut blocks) = (0, columns.div_ceil(tile.columns.len()));
            while column < columns {
                let block = (columns - column).div_ceil(blocks);
                // SAFETY: the caller's promise covers this block.
                unsafe {
                    tile.columns[block - 1](
                        tile.lanes,
                        block,
                        terms,
                        products.add(column * products_column + lane),
                        left.start.add(lane),
                        right.start.add(column * right.column),
                        products_column as isize,
                        1,
                        left.term as isize,
                        right.term as isize,
                        right.column as isize,
                        1.0,
                        1.0,
                        u8::from(adds),
                        false,
                        false,
                        false,
                        left.start,
                    );
                }
                column += block;
                blocks -= 1;
            }
            lane += tile.lanes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many numbers a vector has.
    struct Lanes;

    impl WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }

    #[test]
    fn vectors_are_as_wide_as_the_instructions() {
        let lanes: Vec<_> =
            InstructionSet::available().into_iter().map(|set| (set.name(), set.dispatch(Lanes))).collect();
        let wide = [("AVX-512", 16), ("AVX2", 8), ("NEON", 4), ("portable", 1)];
        assert!(lanes.iter().all(|found| wide.contains(found)), "{lanes:?}");
        assert_eq!(InstructionSet::best(), InstructionSet::available()[0]);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(lanes.iter().any(|(name, _)| *name == "AVX2"), std::is_x86_feature_detected!("avx2"), "{lanes:?}");
    }

    #[test]
    fn products_are_exact_for_integers_on_every_instruction_set() {
        let (lanes, columns, terms) = (104, 13, 29);
        let left: Vec<f32> = (0..terms * lanes).map(|i| (i * 7 % 9) as f32 - 4.0).collect();
        let right: Vec<f32> = (0..terms * columns).map(|i| (i * 5 % 7) as f32 - 3.0).collect();
        let mut expected = vec![1.0; columns * lanes];
        for (j, column) in expected.chunks_mut(lanes).enumerate() {
            for (i, sum) in column.iter_mut().enumerate() {
                *sum += (0..terms).map(|k| left[k * lanes + i] * right[k * columns + j]).sum::<f32>();
            }
        }
        for set in InstructionSet::available() {
            let mut products = vec![1.0; columns * lanes];
            let operand = |data: &[f32], term, column| Operand { start: data.as_ptr(), term, column };
            // SAFETY: the vectors have exactly these sizes.
            unsafe {
                MicroKernels::new(set).accumulate(
                    (lanes, columns, terms),
                    (products.as_mut_ptr(), lanes),
                    operand(&left, lanes, 0),
                    operand(&right, columns, 1),
                );
            }
            assert_eq!(products, expected, "{}", set.name());
        }
    }
}
