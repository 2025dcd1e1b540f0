//! The primitives' two bodies: what the emulator computes for each must be what PTX says, and, where there is a GPU,
//! what the GPU computes from the same random bits.
#![cfg(feature = "emulator")]

use coronet::device::Precision;
use coronet::device::cuda::{Architecture, Driver, EmulatedDriver, Launch, Schedule};

/// Random words, always the same for a seed (xorshift64*, Vigna 2016).
struct Words(u64);

impl Words {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// What one kernel of `kernels/conformance.cu` makes of `inputs`; the last one is also what it writes, 32 lanes or more.
fn words_of(
    driver: &dyn Driver,
    kernel: &'static str,
    threads: u32,
    shared_bytes: usize,
    inputs: &[Vec<u32>],
    last: Option<i32>,
) -> Vec<u32> {
    let as_floats = |words: &[u32]| words.iter().map(|&word| f32::from_bits(word)).collect::<Vec<f32>>();
    let memory: Vec<_> = inputs.iter().map(|words| driver.allocate(4 * words.len()).unwrap()).collect();
    let mut launch = Launch::new(kernel, [1, 1, 1], [threads, 1, 1]).with_shared(shared_bytes);
    for (address, words) in memory.iter().zip(inputs) {
        // SAFETY: allocated for as many.
        unsafe { driver.upload(*address, &as_floats(words)) }.unwrap();
        launch = launch.with(*address);
    }
    if let Some(argument) = last {
        launch = launch.with(argument);
    }
    let mut result = vec![0.0; inputs.last().unwrap().len()];
    // SAFETY: the arguments are those of the kernel, as its header says; the memory is released once it is done.
    unsafe {
        driver.launch(&launch).unwrap();
        driver.download(*memory.last().unwrap(), &mut result).unwrap();
        memory.into_iter().for_each(|address| driver.release(address));
    }
    result.into_iter().map(f32::to_bits).collect()
}

fn copied(driver: &dyn Driver, x: &[u32], valid: u32) -> Vec<u32> {
    words_of(driver, "conform_copy", 32, 0, &[x.to_vec(), vec![!0; 128]], Some(valid.cast_signed()))
}

fn loaded(driver: &dyn Driver, x: &[u32], rows: &[u32], transposed: bool) -> Vec<u32> {
    let inputs = [x.to_vec(), rows.to_vec(), vec![!0; 128]];
    words_of(driver, "conform_load", 32, 0, &inputs, Some(i32::from(transposed)))
}

fn converted(driver: &dyn Driver, x: &[u32]) -> Vec<u32> {
    words_of(driver, "conform_convert", 1024, 0, &[x.to_vec(), vec![!0; 1024]], None)
}

fn rounded_to_tf32(driver: &dyn Driver, x: &[u32]) -> Vec<u32> {
    words_of(driver, "conform_round_tf32", 1024, 0, &[x.to_vec(), vec![!0; 1024]], None)
}

fn multiplied(driver: &dyn Driver, precision: Precision, tile: &Operands) -> Vec<f32> {
    let kernel = match precision {
        Precision::Float16 => "conform_mma_float16",
        Precision::BFloat16 => "conform_mma_bfloat16",
        _ => "conform_mma_tf32",
    };
    let inputs = [tile.registers(precision, true), tile.registers(precision, false), tile.sums.clone()];
    words_of(driver, kernel, 32, 0, &inputs, None).into_iter().map(f32::from_bits).collect()
}

/// What a GPU or its emulation that has warpgroups has beside.
const A_KERNEL_OF_WARPGROUPS: &str = "conform_warpgroup_float16_64";

fn through_barriers(driver: &dyn Driver, x: &[u32]) -> Vec<u32> {
    words_of(driver, "conform_barriers", 64, 0, &[x.to_vec(), vec![!0; x.len()]], None)
}

/// Sums of 64 x `columns`, as the threads hold them.
fn multiplied_by_a_warpgroup(driver: &dyn Driver, columns: usize, a: &[u32], b: &[u32], sums: &[u32]) -> Vec<f32> {
    let kernel = if columns == 64 { A_KERNEL_OF_WARPGROUPS } else { "conform_warpgroup_float16_32" };
    let inputs = [a.to_vec(), b.to_vec(), sums.to_vec()];
    words_of(driver, kernel, 128, 6 << 10, &inputs, None).into_iter().map(f32::from_bits).collect()
}

// ---- what goes in --------------------------------------------------------------------------------------------------

const SIDE: usize = 32;

/// Rows as they are read on purpose out of order.
fn shuffled_rows() -> Vec<u32> {
    (0..32).map(|lane| (lane * 13 + 5) % 32).collect()
}

/// Random bits, and what conversions get wrong first: both zeros, subnormals, ties, the largest, infinities, and NaNs
/// that have bits set below, at and above where a format ends, or all.
fn numbers() -> Vec<u32> {
    let mut x = Words(3).take(1024);
    // Random bits are seldom near the range of float16.
    for (i, word) in x.iter_mut().enumerate().take(700) {
        *word = (*word & 0x807f_ffff) | ((100 + i as u32 % 50) << 23);
    }
    let special = [0.0, -0.0, 65504.0, 65519.9, 65520.0, 6.1e-5, 5.96e-8, 2.98e-8, 2.981e-8, 1e-45, f32::MAX];
    let bits = special.map(f32::to_bits).into_iter();
    let ties = [0x3f80_1000, 0x3f80_3000, 0x3f80_8000, 0x3f81_8000, 0x7f7f_efff, 0x7f7f_f000, 0x7f80_0000];
    let nans = [0x7fc0_0000, 0x7f80_0001, 0x7f80_0fff, 0x7f80_1000, 0x7f80_1fff, 0x7f80_2000, 0x7f80_8000, 0x7fff_ffff];
    let ties = ties.into_iter().chain(nans);
    let negative = ties.clone().map(|bits| bits | 0x8000_0000);
    x.iter_mut().zip(bits.chain(ties).chain(negative)).for_each(|(word, bits)| *word = bits);
    x
}

/// A product of 32 x 32 sums, as numbers that its format holds.
struct Operands {
    /// [row or column][number along the sum]
    a: Vec<Vec<f32>>,
    b: Vec<Vec<f32>>,
    /// Bits, as the lanes hold them: [lane][i][j][4].
    sums: Vec<u32>,
}

impl Operands {
    fn draw(precision: Precision, whole: bool, seed: u64) -> Operands {
        let mut words = Words(seed);
        let depth = if precision == Precision::Tf32 { 8 } else { 16 };
        let mut number = |_| {
            let word = words.next();
            if whole { (word % 9) as f32 - 4.0 } else { precision.round(word as f32 / 2f32.powi(31) - 1.0) }
        };
        let mut rows = || (0..SIDE).map(|_| (0..depth).map(&mut number).collect()).collect();
        let (a, b) = (rows(), rows());
        let sums = (0..SIDE * SIDE).map(|i| number(i).to_bits()).collect();
        Operands { a, b, sums }
    }

    /// Registers [lane][tile of 16][4], by the tables of the PTX manual for mma.m16n8k16 and m16n8k8.
    fn registers(&self, precision: Precision, is_a: bool) -> Vec<u32> {
        let mut registers = Vec::new();
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            for tile in 0..2 {
                for i in 0..4 {
                    let (lower, later) = if is_a { (i % 2, i / 2) } else { (i / 2, i % 2) };
                    let row = &(if is_a { &self.a } else { &self.b })[16 * tile + 8 * lower + group];
                    registers.push(match precision {
                        Precision::Tf32 => row[thread + 4 * later].to_bits(),
                        _ => {
                            let at = 2 * thread + 8 * later;
                            let bits = [row[at], row[at + 1]].map(|x| match precision {
                                Precision::Float16 => half::f16::from_f32(x).to_bits(),
                                _ => half::bf16::from_f32(x).to_bits(),
                            });
                            u32::from(bits[0]) | u32::from(bits[1]) << 16
                        }
                    });
                }
            }
        }
        registers
    }

    /// The sums in float64, and of their sizes, as the lanes hold them.
    fn expected(&self) -> Vec<(f64, f64)> {
        let mut expected = Vec::new();
        for place in 0..SIDE * SIDE {
            let (lane, i) = (place / 32, place % 32);
            let row = 16 * (i / 16) + 8 * (i / 2 % 2) + lane / 4;
            let column = 8 * (i / 4 % 4) + 2 * (lane % 4) + i % 2;
            let start = f64::from(f32::from_bits(self.sums[place]));
            let products = self.a[row].iter().zip(&self.b[column]).map(|(&a, &b)| f64::from(a) * f64::from(b));
            let (sum, size) = products.fold((start, start.abs()), |(sum, size), p| (sum + p, size + p.abs()));
            expected.push((sum, size));
        }
        expected
    }
}

// ---- what must come out --------------------------------------------------------------------------------------------

/// Whether bits are those expected; any NaN stands for any other.
fn same(got: u32, expected: u32, is_nan: impl Fn(u32) -> bool) -> bool {
    got == expected || (is_nan(got) && is_nan(expected))
}

fn assert_copies(driver: &dyn Driver) {
    let x = Words(1).take(128);
    for valid in [!0, 0, 0x8f03_1234] {
        let expected: Vec<u32> = (0..128).map(|i| if valid >> (i / 4) & 1 == 1 { x[i] } else { 0 }).collect();
        assert_eq!(copied(driver, &x, valid), expected);
    }
}

fn assert_loads(driver: &dyn Driver) {
    let (x, rows) = (Words(2).take(128), shuffled_rows());
    let halves: Vec<u32> = x.iter().flat_map(|word| [word & 0xffff, word >> 16]).collect();
    let half = |matrix: usize, row: usize, column: usize| halves[8 * rows[8 * matrix + row] as usize + column];
    let expected = |transposed: bool| -> Vec<u32> {
        let element = |matrix, i, j| if transposed { half(matrix, j, i) } else { half(matrix, i, j) };
        let register =
            |lane: usize, m| element(m, lane / 4, lane % 4 * 2) | element(m, lane / 4, lane % 4 * 2 + 1) << 16;
        (0..128).map(|i| register(i / 4, i % 4)).collect()
    };
    for transposed in [false, true] {
        assert_eq!(loaded(driver, &x, &rows, transposed), expected(transposed), "transposed: {transposed}");
    }
}

fn assert_conversions(driver: &dyn Driver) {
    for (&x, got) in numbers().iter().zip(converted(driver, &numbers())) {
        let number = f32::from_bits(x);
        let is_nan16 = |bits: u32| bits & 0x7fff > 0x7c00;
        assert!(
            same(got & 0xffff, half::f16::from_f32(number).to_bits().into(), is_nan16),
            "float16 of {x:#x}: {got:#x}"
        );
        let is_nan_b16 = |bits: u32| bits & 0x7fff > 0x7f80;
        assert!(
            same(got >> 16, half::bf16::from_f32(number).to_bits().into(), is_nan_b16),
            "bfloat16 of {x:#x}: {got:#x}"
        );
    }
}

/// Bit for bit, NaNs too; all that differ are worth seeing at once, for a rule may be seen in them.
fn assert_tf32_rounding(driver: &dyn Driver) {
    let x = numbers();
    let wrong: Vec<String> = x
        .iter()
        .zip(rounded_to_tf32(driver, &x))
        .map(|(&x, got)| (x, got, Precision::Tf32.round(f32::from_bits(x)).to_bits()))
        .filter(|(_, got, expected)| got != expected)
        .map(|(x, got, expected)| format!("tf32 of {x:#010x}: {got:#010x}, not {expected:#010x}"))
        .collect();
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// Exact on whole numbers; else within what an instruction may lose that truncates its sum of at most 17 terms.
fn assert_products(driver: &dyn Driver, precision: Precision) {
    for whole in [true, false] {
        let operands = Operands::draw(precision, whole, 4);
        for (got, (expected, size)) in multiplied(driver, precision, &operands).into_iter().zip(operands.expected()) {
            let bound = if whole { 0.0 } else { 8.0 * 2f64.powi(-24) * size };
            let error = (f64::from(got) - expected).abs();
            assert!(error <= bound, "{precision}: {got} is not {expected}, whole numbers: {whole}");
        }
    }
}

/// As `assert_products`, of operands that tensor cores read from shared memory by themselves.
fn assert_products_of_warpgroups(driver: &dyn Driver, columns: usize) {
    const DEPTH: usize = 16;
    for whole in [true, false] {
        let mut words = Words(6);
        let mut number = |_| {
            let word = words.next();
            let number = if whole { (word % 9) as f32 - 4.0 } else { word as f32 / 2f32.powi(31) - 1.0 };
            Precision::Float16.round(number)
        };
        let mut numbers = |count: usize| (0..count).map(&mut number).collect::<Vec<f32>>();
        let (a, b, sums) = (numbers(64 * DEPTH), numbers(DEPTH * columns), numbers(64 * columns));
        let halves = |numbers: &[f32]| -> Vec<u32> {
            let bits = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
            numbers.chunks(2).map(|pair| bits(pair[0]) | bits(pair[1]) << 16).collect()
        };
        let bits: Vec<u32> = sums.iter().map(|sum| sum.to_bits()).collect();
        let got = multiplied_by_a_warpgroup(driver, columns, &halves(&a), &halves(&b), &bits);
        for (place, got) in got.into_iter().enumerate() {
            // The table of the PTX manual for the sums of wgmma.m64nNk16.
            let (thread, i) = (place / (columns / 2), place % (columns / 2));
            let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
            let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
            let products = (0..DEPTH).map(|k| f64::from(a[row * DEPTH + k]) * f64::from(b[k * columns + column]));
            let start = f64::from(sums[place]);
            let (sum, size) = products.fold((start, start.abs()), |(sum, size), p| (sum + p, size + p.abs()));
            let bound = if whole { 0.0 } else { 8.0 * 2f64.powi(-24) * size };
            let error = (f64::from(got) - sum).abs();
            assert!(error <= bound, "{row}, {column}: {got} is not {sum}, whole numbers: {whole}, {columns} columns");
        }
    }
}

fn assert_barriers(driver: &dyn Driver) {
    let x = Words(7).take(512);
    assert_eq!(through_barriers(driver, &x), x);
}

fn assert_conforms(driver: &dyn Driver) {
    println!("{}", driver.describe());
    assert_copies(driver);
    assert_loads(driver);
    assert_conversions(driver);
    assert_products(driver, Precision::Float16);
    if driver.architecture() >= 80 {
        assert_tf32_rounding(driver);
        assert_products(driver, Precision::Tf32);
        assert_products(driver, Precision::BFloat16);
    }
    if driver.has_kernel(A_KERNEL_OF_WARPGROUPS) {
        assert_barriers(driver);
        assert_products_of_warpgroups(driver, 32);
        assert_products_of_warpgroups(driver, 64);
    }
}

#[test]
fn primitives_on_the_emulator_are_what_ptx_says() {
    for architecture in Architecture::ALL {
        for schedule in Schedule::ALL {
            let driver = EmulatedDriver::of(architecture, schedule);
            assert_eq!(driver.has_kernel(A_KERNEL_OF_WARPGROUPS), driver.architecture() == 90);
            assert_conforms(&driver);
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn primitives_on_a_gpu_are_what_ptx_says() {
    match coronet::device::cuda::Gpu::new(0) {
        Ok(gpu) => {
            assert_eq!(
                gpu.has_kernel(A_KERNEL_OF_WARPGROUPS),
                gpu.architecture() == 90,
                "this build has no code for it"
            );
            assert_conforms(&gpu);
        }
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
fn a_primitive_that_is_wrong_is_found() {
    // Tensor cores of tf32 ignore bits that these numbers have: sums of numbers that were not rounded do not conform.
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let mut operands = Operands::draw(Precision::Tf32, false, 5);
    operands.a.iter_mut().flatten().for_each(|x| *x += *x * 1e-3);
    let wrong =
        |(got, (expected, size)): &(f32, (f64, f64))| (f64::from(*got) - expected).abs() > 8.0 * 2f64.powi(-24) * size;
    let got = multiplied(&driver, Precision::Tf32, &operands);
    assert!(got.into_iter().zip(operands.expected()).filter(wrong).count() > 1000);
}
