//! Every set of this processor, and AMX by emulation where the processor lacks it.

use super::sets_to_test as sets;
use super::*;

/// The operands of a product as of a convolution with three taps, of which two overlap, and of rows of columns.
struct Operands {
    lanes: usize,
    /// Rows, and columns of each.
    count: (usize, usize),
    depth: usize,
    runs: [Run; 3],
    left: Vec<bf16>,
    right: Vec<bf16>,
    column: usize,
    row: usize,
}

/// Numbers behind the sums that are not to be written.
const MARGIN: usize = 64;
const UNWRITTEN: f32 = -1234.5;

impl Operands {
    /// All that the sums do not need is NaN: behind the left operand, between columns and rows, behind the last.
    fn new(
        (lanes, count, depth): (usize, (usize, usize), usize),
        column: usize,
        number: impl Fn(usize) -> f32,
    ) -> Operands {
        let (rows, columns) = count;
        let row = (columns + 5) * column;
        let runs = [0, 1, columns + 2].map(|pixel| pixel * column);
        let runs = std::array::from_fn(|tap| Run { left: (2 - tap) * depth, right: runs[tap] });
        let mut left: Vec<bf16> = (0..3 * depth * lanes).map(|i| bf16::from_f32(number(i * 7 + 3))).collect();
        left.resize(left.len() + MARGIN, bf16::NAN);
        let last_row = (columns + 2 + columns.next_multiple_of(COLUMNS)) * column + depth;
        let mut right = vec![bf16::NAN; (rows - 1) * row + last_row];
        for (run, r) in runs.iter().flat_map(|run| (0..rows).map(move |r| (run, r))) {
            for at in (0..columns).flat_map(|j| (0..depth).map(move |k| run.right + r * row + j * column + k)) {
                right[at] = bf16::from_f32(number(at * 5));
            }
        }
        Operands { lanes, count, depth, runs, left, right, column, row }
    }

    /// Sums of all lanes and columns.
    fn len(&self) -> usize {
        self.count.0 * self.count.1 * self.lanes
    }

    /// Row, column and lane of a sum.
    fn place(&self, at: usize) -> (usize, usize, usize) {
        let pixel = at / self.lanes;
        (pixel / self.count.1, pixel % self.count.1, at % self.lanes)
    }

    /// The terms of one sum.
    fn terms(&self, at: usize) -> impl Iterator<Item = (bf16, bf16)> {
        let (r, j, i) = self.place(at);
        self.runs.iter().flat_map(move |run| {
            (0..self.depth).map(move |k| {
                let left = self.left[run.left * self.lanes + (k / 2) * self.lanes * 2 + i * 2 + k % 2];
                (left, self.right[run.right + r * self.row + j * self.column + k])
            })
        })
    }

    /// The product of operands at these places, with sums at another.
    fn product(&self, adds: bool, left: *const bf16, first: *const bf16, sums: *mut f32) -> Product<'_> {
        let right = Columns { first, column: self.column, row: self.row, count: self.count };
        Product { adds, lanes: self.lanes, depth: self.depth, runs: &self.runs, left, right, sums }
    }

    /// Numbers that sums may be written to.
    fn writable(&self) -> usize {
        self.count.0 * self.count.1.next_multiple_of(COLUMNS) * self.lanes
    }

    /// Of what was written, what are sums.
    fn sums_of(&self, written: &[f32]) -> Vec<f32> {
        let whole = self.count.1.next_multiple_of(COLUMNS) * self.lanes;
        written.chunks(whole).flat_map(|row| row[..self.count.1 * self.lanes].iter().copied()).collect()
    }

    /// The sums by a set, which writes nothing around those of whole tiles.
    fn sums(&self, set: BfloatSet) -> Vec<f32> {
        self.sums_added(set, false)
    }

    /// The same, added twice to what they were first where `adds` says so.
    fn sums_added(&self, set: BfloatSet, adds: bool) -> Vec<f32> {
        let writable = self.writable();
        let mut sums = vec![UNWRITTEN; MARGIN + writable + MARGIN];
        // SAFETY: the vectors have room for whole tiles.
        unsafe {
            let to = sums.as_mut_ptr().add(MARGIN);
            let add = |adds| {
                BfloatKernels::new(set).sums(&self.product(adds, self.left.as_ptr(), self.right.as_ptr(), to));
            };
            add(false);
            (0..2 * usize::from(adds)).for_each(|_| add(true));
        }
        let around = sums[..MARGIN].iter().chain(&sums[MARGIN + writable..]);
        assert!(around.into_iter().all(|&x| x == UNWRITTEN), "{} writes around its sums", set.name());
        self.sums_of(&sums[MARGIN..MARGIN + writable])
    }
}

/// Rounds pixels that lie side by side.
unsafe fn pack(set: BfloatSet, from: *const f32, (channels, depth): (usize, usize), to: *mut bf16, pixels: usize) {
    let packing = Packing { norm: None, channels, apart: channels, depth, split: false };
    // SAFETY: the caller's promise.
    unsafe { BfloatKernels::new(set).pack(&packing, from, to, pixels) }
}

#[test]
fn pixels_take_whole_rows_of_tiles_or_half_a_row() {
    assert_eq!([1, 8, 16, 17, 24, 32, 40, 64, 72].map(depth), [16, 16, 16, 32, 32, 32, 64, 64, 96]);
}

#[test]
fn sums_of_integers_are_exact() {
    let sets = sets();
    for (lanes, depth) in [16, 32].into_iter().flat_map(|lanes| [16, 32, 64, 96].map(|depth| (lanes, depth))) {
        for count in (1..=40).map(|columns| (1, columns)).chain([(2, 7), (3, 14), (2, 20), (5, 1)]) {
            // Columns end to end, apart, and over each other as two taps in one run have them.
            let column = [depth, depth + 32, 16][count.1 % 3];
            let operands = Operands::new((lanes, count, depth), column, |i| (i % 9) as f32 - 4.0);
            let sum = |at: usize| {
                let terms = operands.terms(at);
                terms.map(|(left, right)| left.to_f32() * right.to_f32()).sum::<f32>()
            };
            let expected: Vec<f32> = (0..operands.len()).map(sum).collect();
            for &set in &sets {
                let name = set.name();
                assert!(operands.sums(set) == expected, "{name}, {lanes} lanes, {count:?} columns of {depth}");
                let threefold: Vec<f32> = expected.iter().map(|sum| 3.0 * sum).collect();
                let added = operands.sums_added(set, true);
                assert!(added == threefold, "{name}, {lanes} lanes, {count:?} columns of {depth}, added");
            }
        }
    }
}

#[test]
fn sums_are_those_of_float64_but_for_rounding() {
    let operands = Operands::new((32, (2, 19), 64), 64, |i| ((i * 2_654_435_761) % 1009) as f32 / 300.0 - 1.7);
    for set in sets() {
        for (at, sum) in operands.sums(set).into_iter().enumerate() {
            let products = || operands.terms(at).map(|(l, r)| l.to_f64() * r.to_f64());
            let (exact, absolute) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let error = (f64::from(sum) - exact).abs();
            assert!(error <= absolute * 1e-6, "{}: {sum}, not {exact}", set.name());
        }
    }
}

#[test]
fn a_wrong_distance_of_columns_or_rows_shows() {
    let mut operands = Operands::new((32, (2, 20), 32), 64, |i| (i % 9) as f32 - 4.0);
    for set in sets() {
        let right = operands.sums(set);
        operands.column -= 16;
        assert_ne!(operands.sums(set), right, "{}", set.name());
        operands.column += 16;
        operands.row -= operands.column;
        assert_ne!(operands.sums(set), right, "{}", set.name());
        operands.row += operands.column;
    }
}

#[test]
fn rounding_is_to_nearest_even_on_every_set() {
    // All upper halves, with lower halves around the tie and at the ends.
    let lower = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let bits = (0..=u16::MAX).flat_map(|upper| lower.map(|lower| u32::from(upper) << 16 | lower));
    let numbers: Vec<f32> = bits.map(f32::from_bits).collect();
    let rounded = |x: f32| if x.is_subnormal() { bf16::ZERO.copysign(bf16::from_f32(x)) } else { bf16::from_f32(x) };
    for set in BfloatSet::available() {
        for (channels, depth) in [(8, 16), (16, 16), (24, 32), (32, 32), (64, 64), (48, 96)] {
            let pixels = numbers.len() / channels;
            let mut packed = vec![bf16::NAN; pixels * depth + MARGIN];
            // SAFETY: the vectors have these sizes.
            unsafe { pack(set, numbers.as_ptr(), (channels, depth), packed.as_mut_ptr(), pixels) };
            let (pixels, behind) = packed.split_at(pixels * depth);
            for (pixel, from) in pixels.chunks(depth).zip(numbers.chunks(channels)) {
                for (&to, &from) in pixel.iter().zip(from) {
                    let expected = rounded(from).to_bits();
                    assert_eq!(to.to_bits(), expected, "{}: {from:e} = {:08x}", set.name(), from.to_bits());
                }
                assert!(pixel[channels..].iter().all(|x| x.to_bits() == 0), "{}", set.name());
            }
            assert!(behind.iter().all(|x| x.is_nan()), "{} writes behind its pixels", set.name());
        }
    }
}

/// What is normed, rectified and split is what each of these makes, one after the other, of pixels that lie apart.
#[test]
fn pixels_are_normed_and_split_alike_on_every_set() {
    let (channels, depth, apart, pixels) = (24, 32, 40, 7);
    let number = |i: usize| (((i * 2_654_435_761) % 2003) as f32 - 1000.0) * 10f32.powi(i as i32 % 9 - 4);
    let mut from: Vec<f32> = (0..apart * pixels).map(number).collect();
    (from[3], from[apart + 5], from[2 * apart], from[3 * apart]) = (f32::NAN, f32::INFINITY, f32::MAX, 1e-40);
    let rows = [1, 2, 3].map(|row| (0..channels).map(|i| number(i * 17 + row) / 1e3).collect::<Vec<f32>>());
    for (set, norm) in BfloatSet::available().into_iter().flat_map(|set| [(set, false), (set, true)]) {
        let norm_rows = norm.then(|| (rows.each_ref().map(|row| row.as_ptr()), true));
        let packing = Packing { norm: norm_rows, channels, apart, depth, split: true };
        let mut packed = vec![bf16::NAN; pixels * packing.pitch() + MARGIN];
        // SAFETY: the vectors have these sizes.
        unsafe { BfloatKernels::new(set).pack(&packing, from.as_ptr(), packed.as_mut_ptr(), pixels) };
        for (pixel, to) in packed[..pixels * packing.pitch()].chunks(packing.pitch()).enumerate() {
            for channel in 0..depth {
                let x = if channel < channels { from[pixel * apart + channel] } else { 0.0 };
                let y = if norm && channel < channels {
                    let y = (x - rows[0][channel]) * rows[1][channel] + rows[2][channel];
                    if y < 0.0 { 0.0 } else { y }
                } else {
                    x
                };
                let [first, second] = [to[channel], to[depth + channel]];
                let expected = split(y);
                let same = [first, second].map(|x| x.to_bits()) == expected.map(|x| x.to_bits());
                assert!(same || y.is_nan() && first.is_nan(), "{}: {y}: {first} and {second}", set.name());
                let near =
                    (f64::from(y) - first.to_f64() - second.to_f64()).abs() <= f64::from(y).abs() * 2f64.powi(-17);
                assert!(near || y.is_nan() || first.to_f32().is_infinite() || y.abs() < 1e-30, "{}: {y}", set.name());
            }
        }
        assert!(packed[pixels * packing.pitch()..].iter().all(|x| x.is_nan()), "{} writes behind", set.name());
    }
}

/// Numbers that lie right before memory that is not there, so that a read or a write behind them ends the process.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
struct AtTheEnd {
    pages: *mut libc::c_void,
    bytes: usize,
    gap: usize,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl AtTheEnd {
    const PAGE: usize = 4096;

    fn new<T: Copy>(numbers: &[T]) -> AtTheEnd {
        let bytes = size_of_val(numbers).next_multiple_of(AtTheEnd::PAGE) + AtTheEnd::PAGE;
        let gap = bytes - AtTheEnd::PAGE - size_of_val(numbers);
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the system picks the place; the numbers fit before the last page, which is taken away.
        unsafe {
            let pages = libc::mmap(std::ptr::null_mut(), bytes, read_write, private, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(pages.byte_add(bytes - AtTheEnd::PAGE), AtTheEnd::PAGE, libc::PROT_NONE), 0);
            numbers.as_ptr().copy_to_nonoverlapping(pages.byte_add(gap).cast(), numbers.len());
            AtTheEnd { pages, bytes, gap }
        }
    }

    fn start<T>(&self) -> *mut T {
        self.pages.wrapping_byte_add(self.gap).cast()
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Drop for AtTheEnd {
    fn drop(&mut self) {
        // SAFETY: these pages are this value's, and nothing points to them any more.
        unsafe { libc::munmap(self.pages, self.bytes) };
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn operands_and_sums_may_end_where_memory_ends() {
    let sums_at_the_end = |set: BfloatSet, operands: &Operands| {
        let (rows, whole) = (operands.count.0, operands.count.1.next_multiple_of(COLUMNS));
        let last = operands.runs.map(|run| run.right).into_iter().max().unwrap()
            + (rows - 1) * operands.row
            + (whole - 1) * operands.column
            + operands.depth;
        let left = AtTheEnd::new(&operands.left[..operands.left.len() - MARGIN]);
        let right = AtTheEnd::new(&operands.right[..last]);
        let sums = AtTheEnd::new(&vec![UNWRITTEN; operands.writable()]);
        // SAFETY: the memory holds what the kernels may touch; if they touch more, this process ends.
        unsafe {
            let to = sums.start::<f32>();
            BfloatKernels::new(set).sums(&operands.product(false, left.start(), right.start(), to));
            operands.sums_of(std::slice::from_raw_parts(to, operands.writable()))
        }
    };
    for set in sets() {
        for lanes in [16, 32] {
            for count in [(1, 1), (1, 6), (1, 16), (3, 16), (2, 17), (1, 33)] {
                for depth in [16, 64] {
                    let operands = Operands::new((lanes, count, depth), depth, |i| (i % 9) as f32 - 4.0);
                    let same = sums_at_the_end(set, &operands) == operands.sums(set);
                    assert!(same, "{}, {lanes} lanes, {count:?} columns of {depth}", set.name());
                }
            }
        }
    }
    for set in BfloatSet::available() {
        for (channels, depth) in [(8, 16), (16, 16), (24, 32), (40, 64), (64, 64)] {
            let (from, to) = (AtTheEnd::new(&vec![1.5_f32; 3 * channels]), AtTheEnd::new(&vec![bf16::NAN; 3 * depth]));
            // SAFETY: as above.
            unsafe { pack(set, from.start(), (channels, depth), to.start(), 3) };
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn tiles_give_the_bits_of_the_manual() {
    use amx_emulation::{Instruction, Tiles};
    let (lanes, columns, depth) = (16, 16, 96);
    let product =
        Operands::new((lanes, (1, columns), depth), depth, |i| ((i * 2_654_435_761) % 1009) as f32 / 300.0 - 1.7);
    let emulated = !BfloatSet::available().contains(&BfloatSet::Amx);
    if !sets().contains(&BfloatSet::Amx) {
        return;
    }
    let before = amx_emulation::executed();
    let sums = product.sums(BfloatSet::Amx);

    let mut configuration = [0_u8; 64];
    configuration[0] = 1;
    for tile in 0..3 {
        configuration[16 + 2 * tile] = 64;
        configuration[48 + tile] = 16;
    }
    let mut instructions = vec![Instruction::Configure { from: configuration.as_ptr() as u64 }];
    instructions.push(Instruction::Zero { tile: 0 });
    for run in &product.runs {
        for term in (0..depth).step_by(32) {
            let rows = product.right[run.right + term..].as_ptr() as u64;
            let pairs = product.left[(run.left + term) * lanes..].as_ptr() as u64;
            instructions.push(Instruction::Load { tile: 1, from: rows, stride: 2 * depth as u64 });
            instructions.push(Instruction::Load { tile: 2, from: pairs, stride: 4 * lanes as u64 });
            instructions.push(Instruction::Multiply { sums: 0, rows: 1, pairs: 2 });
        }
    }
    let mut expected = vec![0.0_f32; columns * lanes];
    instructions.push(Instruction::Store { tile: 0, to: expected.as_mut_ptr() as u64, stride: 4 * lanes as u64 });
    instructions.push(Instruction::Release);
    let mut model = Tiles::new();
    for &instruction in &instructions {
        // SAFETY: the vectors hold these rows.
        assert_eq!(unsafe { model.execute(instruction) }, Ok(()));
    }
    let bits = |sums: &[f32]| sums.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    if emulated {
        assert_eq!(bits(&sums), bits(&expected));
    } else {
        // A processor may order its sums otherwise than the manual; how near they are is tested above.
        let same = bits(&sums) == bits(&expected);
        println!("this processor's tiles give {} bits of the manual", if same { "the" } else { "other" });
    }
    let executed = amx_emulation::executed() - before;
    assert_eq!(executed, if emulated { instructions.len() } else { 0 }, "instructions emulated");
}
