//! Products of bfloat16 by the tiles of AMX: an instruction multiplies 16 columns of 32 terms with 16 lanes.
//!
//! Nothing that a compiler makes uses tiles unless it is told to, which this program's is not, so they keep their
//! contents from one statement of assembly to the next.

use super::{COLUMNS, Product};
use core::arch::asm;
use half::bf16;
use std::sync::OnceLock;

/// Lanes of a tile.
const LANES: usize = 16;
/// Terms of a full row of the right operand.
const TERMS: usize = 32;

/// Whether this processor has AMX-BF16 and the system keeps tiles for this process, which is asked for here.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && keeps_tiles() && request_tiles())
}

/// Whether there is AMX, but not for this process.
#[cfg(test)]
pub(super) fn is_refused() -> bool {
    has_instructions() && keeps_tiles() && !is_available()
}

/// What the processor says of AMX-BF16 and AMX-TILE.
fn has_instructions() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    // SAFETY: every x86-64 processor has the instruction; the compiler calls it safe from some version on.
    #[allow(unused_unsafe)]
    let (leaves, xsave) = unsafe { (__cpuid(0).eax, __cpuid(1).ecx & OSXSAVE != 0) };
    if leaves < 7 || !xsave {
        return false;
    }
    // SAFETY: as above.
    #[allow(unused_unsafe)]
    let features = unsafe { __cpuid_count(7, 0).edx };
    features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
}

/// Whether the system saves tiles and their configuration when it changes threads, as extended control register 0 says;
/// only where the processor [`has_instructions`].
fn keeps_tiles() -> bool {
    const CONFIGURATION_AND_DATA: u32 = 0b11 << 17;
    let enabled: u32;
    // SAFETY: the system has enabled XSAVE, and with it this instruction.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    enabled & CONFIGURATION_AND_DATA == CONFIGURATION_AND_DATA
}

/// Asks the system for tiles, for all threads of this process.
fn request_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// The instructions, one each.
mod tile {
    use core::arch::asm;

    /// How many rows the tiles have, and how many bytes a row, as `ldtilecfg` reads it.
    #[repr(C, align(64))]
    pub(super) struct Configuration {
        palette: u8,
        first_row: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Configuration {
        /// The eight tiles of palette 1 as `(rows, bytes of a row)`.
        pub const fn new(tiles: [(u8, u16); 8]) -> Configuration {
            let (mut bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
            while tile < tiles.len() {
                (rows[tile], bytes[tile]) = tiles[tile];
                tile += 1;
            }
            Configuration { palette: 1, first_row: 0, reserved: [0; 14], bytes, rows }
        }
    }

    /// Tiles that are configured, with zeros in them, until this is dropped. Another thread has tiles of its own.
    pub(super) struct Configured(std::marker::PhantomData<*const ()>);

    impl Configured {
        /// # Safety
        /// The processor has AMX, the system has granted tiles, and this thread has none configured.
        #[inline(always)]
        pub unsafe fn new(configuration: &Configuration) -> Configured {
            // SAFETY: the caller's promise; the configuration is one that the instruction accepts.
            unsafe {
                asm!("ldtilecfg [{0}]", in(reg) configuration, options(readonly, nostack, preserves_flags));
            }
            Configured(std::marker::PhantomData)
        }
    }

    impl Drop for Configured {
        /// Whoever switches threads has no tiles to save from here on.
        #[inline(always)]
        fn drop(&mut self) {
            // SAFETY: tiles are configured, so the processor has the instruction.
            unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
        }
    }

    /// Fills a tile with zeros.
    ///
    /// # Safety
    /// It is configured.
    #[inline(always)]
    pub(super) unsafe fn zero<const TILE: u8>() {
        // SAFETY: the caller's promise.
        unsafe { asm!("tilezero tmm{tile}", tile = const TILE, options(nomem, nostack, preserves_flags)) };
    }

    /// Reads the rows of a tile, `stride` bytes from one to the next.
    ///
    /// # Safety
    /// The tile is configured; its rows are readable.
    #[inline(always)]
    pub(super) unsafe fn load<const TILE: u8, T>(from: *const T, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{from} + {stride} * 1]",
                tile = const TILE,
                from = in(reg) from,
                stride = in(reg) stride,
                options(readonly, nostack, preserves_flags)
            );
        }
    }

    /// Writes the rows of a tile, `stride` bytes from one to the next.
    ///
    /// # Safety
    /// The tile is configured; its rows are writable.
    #[inline(always)]
    pub(super) unsafe fn store<const TILE: u8, T>(to: *mut T, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tilestored [{to} + {stride} * 1], tmm{tile}",
                tile = const TILE,
                to = in(reg) to,
                stride = in(reg) stride,
                options(nostack, preserves_flags)
            );
        }
    }

    /// `sums[m][n] += rows[m] pairs[n]` for the rows of one tile and the pairs of rows of another.
    ///
    /// # Safety
    /// The tiles are three, configured, and fit each other.
    #[inline(always)]
    pub(super) unsafe fn multiply<const SUMS: u8, const ROWS: u8, const PAIRS: u8>() {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tdpbf16ps tmm{sums}, tmm{rows}, tmm{pairs}",
                sums = const SUMS,
                rows = const ROWS,
                pairs = const PAIRS,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// The tiles for runs of `terms` at a time: sums in 0 to 3, columns in 4 and 5, lanes in 6 and 7.
const fn configuration(terms: usize) -> tile::Configuration {
    let sums = (COLUMNS as u8, 4 * LANES as u16);
    let columns = (COLUMNS as u8, 2 * terms as u16);
    let lanes = (terms as u8 / 2, 4 * LANES as u16);
    tile::Configuration::new([sums, sums, sums, sums, columns, columns, lanes, lanes])
}
static WHOLE: tile::Configuration = configuration(TERMS);
static HALF: tile::Configuration = configuration(TERMS / 2);

/// As [`super::BfloatKernels::sums`]. Every call configures tiles and releases them, so that no thread keeps any for
/// whatever it runs next; many columns are worth more than many calls.
///
/// Two tiles of columns meet two of lanes, so that each is read once for two products. The columns may be those of two rows:
/// rows of a small map have one tile each. What all columns read of the left operand stays in the first-level cache.
///
/// # Safety
/// As there.
pub(super) unsafe fn sums(product: &Product) {
    let Product { lanes, right, sums, .. } = *product;
    let configuration = if product.depth < TERMS { &HALF } else { &WHOLE };
    // SAFETY: the caller's promise; only this function configures tiles, and it calls nobody who would.
    let _configured = unsafe { tile::Configured::new(configuration) };
    let of_a_row = right.of_a_row() / COLUMNS;
    let tiles = right.count.0 * of_a_row;
    // SAFETY: the caller's promise covers these columns.
    let start = |tile: usize| unsafe {
        right.first.add(tile / of_a_row * right.row + tile % of_a_row * COLUMNS * right.column)
    };
    for lane in (0..lanes).step_by(2 * LANES) {
        for first in (0..tiles).step_by(2) {
            // SAFETY: the caller's promise covers these columns and lanes; the tiles are configured for them.
            unsafe {
                let sums = sums.add(first * COLUMNS * lanes + lane);
                let right = (start(first), start((first + 1).min(tiles - 1)));
                match (first + 1 < tiles, lane + LANES < lanes) {
                    (false, false) => block::<1, 1>(product, lane, right, sums),
                    (false, true) => block::<1, 2>(product, lane, right, sums),
                    (true, false) => block::<2, 1>(product, lane, right, sums),
                    (true, true) => block::<2, 2>(product, lane, right, sums),
                }
            }
        }
    }
}

/// The sums of one or two tiles' lanes from some lane on, and of one or two tiles' columns, which need not be neighbours;
/// their sums are.
///
/// # Safety
/// All elements of them are readable and writable, and the tiles are configured, as in [`sums`].
unsafe fn block<const COLUMN_TILES: usize, const LANE_TILES: usize>(
    product: &Product,
    lane: usize,
    (first, second): (*const bf16, *const bf16),
    sums: *mut f32,
) {
    let Product { adds, lanes, depth, runs, left, right, .. } = *product;
    let terms = depth.min(TERMS);
    let (left_stride, right_stride, sums_stride) = (lanes * 4, right.column * 2, lanes * 4);
    // SAFETY: the caller's promise, for each statement.
    unsafe {
        begin::<0>(adds, sums, sums_stride);
        if LANE_TILES == 2 {
            begin::<1>(adds, sums.add(LANES), sums_stride);
        }
        if COLUMN_TILES == 2 {
            begin::<2>(adds, sums.add(COLUMNS * lanes), sums_stride);
        }
        if COLUMN_TILES == 2 && LANE_TILES == 2 {
            begin::<3>(adds, sums.add(COLUMNS * lanes + LANES), sums_stride);
        }
        for run in runs {
            for term in (0..depth).step_by(terms) {
                let left = left.add((run.left + term) * lanes + lane * 2);
                tile::load::<4, _>(first.add(run.right + term), right_stride);
                tile::load::<6, _>(left, left_stride);
                tile::multiply::<0, 4, 6>();
                if LANE_TILES == 2 {
                    tile::load::<7, _>(left.add(LANES * 2), left_stride);
                    tile::multiply::<1, 4, 7>();
                }
                if COLUMN_TILES == 2 {
                    tile::load::<5, _>(second.add(run.right + term), right_stride);
                    tile::multiply::<2, 5, 6>();
                }
                if COLUMN_TILES == 2 && LANE_TILES == 2 {
                    tile::multiply::<3, 5, 7>();
                }
            }
        }
        tile::store::<0, _>(sums, sums_stride);
        if LANE_TILES == 2 {
            tile::store::<1, _>(sums.add(LANES), sums_stride);
        }
        if COLUMN_TILES == 2 {
            tile::store::<2, _>(sums.add(COLUMNS * lanes), sums_stride);
        }
        if COLUMN_TILES == 2 && LANE_TILES == 2 {
            tile::store::<3, _>(sums.add(COLUMNS * lanes + LANES), sums_stride);
        }
    }
}

/// What a tile of sums starts from.
///
/// # Safety
/// The tile is configured; its rows are readable.
#[inline(always)]
unsafe fn begin<const TILE: u8>(adds: bool, sums: *const f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if adds {
            tile::load::<TILE, _>(sums, stride);
        } else {
            tile::zero::<TILE>();
        }
    }
}
