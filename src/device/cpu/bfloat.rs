//! Small matrix products of bfloat16 with sums in float32: what [`super::microkernel`] is to float32.
//!
//! The left operand lies in pairs of terms, lane after lane, as the instructions of all sets take it. The right operand
//! lies as maps do, the terms of a column one after another, so convolutions read packed maps where they are: one run
//! of terms for each tap, and all runs are summed before anything is written.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_emulation;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use half::bf16;

/// The instructions that products of bfloat16 use. All sum in float32, each in an order of its own, so sums differ in
/// their last bits from set to set. The processors' instructions take denormal numbers for zero and never give any;
/// the portable set computes with them. Rounding to bfloat16 gives the same bits everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BfloatSet {
    /// x86-64 with the tiles of AMX-BF16, on Linux.
    Amx,
    /// x86-64 with AVX-512 BF16.
    Avx512,
    /// Any processor: float32 arithmetic on the same numbers.
    Portable,
}

impl BfloatSet {
    /// Those that this processor has and the system lets it use, best first.
    pub fn available() -> Vec<BfloatSet> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if avx512::is_available() {
            // Whoever multiplies with AMX rounds with AVX-512; no processor has the one without the other.
            #[cfg(target_os = "linux")]
            if amx::is_available() {
                sets.push(BfloatSet::Amx);
            }
            sets.push(BfloatSet::Avx512);
        }
        sets.push(BfloatSet::Portable);
        sets
    }

    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            BfloatSet::Amx => "AMX-BF16",
            BfloatSet::Avx512 => "AVX-512 BF16",
            BfloatSet::Portable => "portable bfloat16",
        }
    }
}

/// The sets to test. A test that runs emulated says so.
#[cfg(test)]
pub(super) fn sets_to_test() -> Vec<BfloatSet> {
    let sets = BfloatSet::available();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if !sets.contains(&BfloatSet::Amx) {
        if amx::is_refused() {
            // Some of the instructions would run without a signal, and others by emulation.
            println!("skipped: AMX, which this processor has and the system does not grant");
            return sets;
        }
        println!("this processor has no AMX: its kernels run by emulation");
        amx_emulation::install();
        return [vec![BfloatSet::Amx], sets].concat();
    }
    sets
}

/// Columns that the operands' memory comes in multiples of: the rows of a tile.
pub(super) const COLUMNS: usize = 16;

/// One run of `depth` terms of a sum: where it starts in either operand, in terms of the left one and numbers of the right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub left: usize,
    pub right: usize,
}

/// Numbers that a pixel of `channels` takes in packed maps: whole rows of a tile, or half a row where that is enough.
pub(super) fn depth(channels: usize) -> usize {
    if channels <= 16 { 16 } else { channels.next_multiple_of(32) }
}

/// The right operand's columns: rows of them that are equally long, as rows of a map are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub first: *const bf16,
    /// Numbers from one column to the next, and from one row of columns to the next.
    pub column: usize,
    pub row: usize,
    /// Rows, and columns of each.
    pub count: (usize, usize),
}

impl Columns {
    /// Columns from one row of sums to the next: what whole tiles write.
    pub fn of_a_row(&self) -> usize {
        self.count.1.next_multiple_of(COLUMNS)
    }
}

/// `sums[(r * columns.of_a_row() + j) * lanes + i] = sum over runs, sum over k < depth of
/// left[run.left * lanes + (k / 2) * lanes * 2 + i * 2 + k % 2] * first[run.right + r * row + j * column + k]`
/// for `i < lanes`, `(r, j) < count`, or `+=` where it `adds`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    pub adds: bool,
    pub lanes: usize,
    /// Terms of a run.
    pub depth: usize,
    pub runs: &'a [Run],
    pub left: *const bf16,
    pub right: Columns,
    pub sums: *mut f32,
}

/// What norms pixels before they are rounded: rows of means, scales and betas, and whether ReLU follows.
pub(super) type Norm = ([*const f32; 3], bool);

/// A number as the sum of two of bfloat16, which is off by up to 2^-17 of it; the second is zero where the first is infinite.
pub(super) fn split(x: f32) -> [bf16; 2] {
    [portable::rounded(x), portable::rest(x)]
}

/// How pixels are rounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packing {
    pub norm: Option<Norm>,
    /// Numbers of a pixel, and from one to the next.
    pub channels: usize,
    pub apart: usize,
    /// Numbers of a rounded pixel, zeros behind the channels included.
    pub depth: usize,
    /// Whether what rounding takes away is rounded, too, and stored behind the rounded pixel in as many numbers.
    pub split: bool,
}

impl Packing {
    /// Numbers from one rounded pixel to the next.
    pub fn pitch(&self) -> usize {
        if self.split { 2 * self.depth } else { self.depth }
    }
}

/// `sums = left^T right`, and the rounding of what they multiply.
#[derive(Debug, Clone, Copy)]
pub(super) struct BfloatKernels {
    set: BfloatSet,
}

impl BfloatKernels {
    pub fn new(set: BfloatSet) -> BfloatKernels {
        BfloatKernels { set }
    }

    /// Computes a [`Product`]. Where it does not add, what `sums` holds may be anything, and it is anything behind the
    /// columns of a row.
    ///
    /// # Safety
    /// `lanes` is 16 or 32, and `depth` is one that [`depth`] gives. For columns rounded up to [`Columns::of_a_row`],
    /// all elements of `left` and `right` are readable, `sums` is writable, and nobody else touches it meanwhile. The
    /// processor has the instruction set.
    pub unsafe fn sums(&self, product: &Product) {
        let Product { lanes, depth, .. } = *product;
        debug_assert!(matches!(lanes, 16 | 32), "{lanes} lanes");
        debug_assert!(depth == self::depth(depth), "runs of {depth}");
        // SAFETY: the caller's promise.
        unsafe {
            match self.set {
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                BfloatSet::Amx => amx::sums(product),
                #[cfg(target_arch = "x86_64")]
                BfloatSet::Avx512 => avx512::sums(product),
                _ => portable::sums(product),
            }
        }
    }

    /// Rounds pixels of float32 to bfloat16, normed first if there is a norm. Rounds to nearest, ties to even; NaN stays
    /// NaN, quiet; denormal numbers become zeros of their sign. Of what is rounded to infinity, nothing is left to split.
    ///
    /// # Safety
    /// `channels` is a multiple of 8, `depth` one of 16 and no smaller. The pixels are readable from `from`, `channels`
    /// numbers from each row of the norm, `pixels` times the pitch writable at `to`, and nobody else touches those
    /// meanwhile. The processor has the instruction set.
    pub unsafe fn pack(&self, packing: &Packing, from: *const f32, to: *mut bf16, pixels: usize) {
        let Packing { channels, depth, .. } = *packing;
        debug_assert!(channels.is_multiple_of(8) && channels <= depth && depth.is_multiple_of(16));
        // SAFETY: the caller's promise.
        unsafe {
            match self.set {
                #[cfg(target_arch = "x86_64")]
                // Where tiles are emulated, there may be no vectors of bfloat16 either.
                BfloatSet::Amx | BfloatSet::Avx512 if avx512::is_available() => avx512::pack(packing, from, to, pixels),
                _ => portable::pack(packing, from, to, pixels),
            }
        }
    }
}
