//! AMX for processors without it, so that its kernels are tested as they were assembled.
//!
//! Such a processor calls each instruction of theirs illegal, and the system sends the thread a signal. The handler
//! reads the instruction from memory ([`decode`]), carries it out on a model of the tiles ([`Tiles::execute`]), and
//! lets the thread go on behind it. What the manual refuses, the model refuses, and the process ends with the reason.
//! Operation and exceptions are those of Intel's Software Developer's Manual, volumes 1 (chapter 18) and 2 (section
//! 2.10 and the pages of the instructions).

use std::cell::UnsafeCell;
use std::sync::Once;

/// Rows of a tile, and bytes of a row.
const ROWS: usize = 16;
const BYTES: usize = 64;

/// What the kernels use of AMX, with addresses worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `ldtilecfg`.
    Configure { from: u64 },
    /// `tilerelease`.
    Release,
    /// `tilezero`.
    Zero { tile: usize },
    /// `tileloadd`.
    Load { tile: usize, from: u64, stride: u64 },
    /// `tilestored`.
    Store { tile: usize, to: u64, stride: u64 },
    /// `tdpbf16ps`: `sums += rows pairs`.
    Multiply { sums: usize, rows: usize, pairs: usize },
}

/// The general registers in the order of their encodings, and where the instruction starts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Registers {
    pub general: [u64; 16],
    pub instruction: u64,
}

/// The instruction that `byte(0)`, `byte(1)`, .. encode and its length; none if it is not one of these, or is encoded
/// as the manual forbids.
pub(super) fn decode(byte: impl Fn(usize) -> u8, registers: &Registers) -> Option<(Instruction, usize)> {
    // The three bytes of a VEX prefix. Its bits that extend or name a register are inverted.
    if byte(0) != 0xc4 {
        return None;
    }
    let (extensions, operands) = (!byte(1) & 0xe0, byte(2));
    let (map, wide, long) = (byte(1) & 0x1f, operands & 0x80 != 0, operands & 4 != 0);
    let third = usize::from(!operands >> 3 & 0xf);
    let prefix = operands & 3;
    if map != 2 || wide || long || extensions & 0x80 != 0 {
        return None;
    }
    let (opcode, form) = (byte(3), byte(4));
    let reg = usize::from(form >> 3 & 7);
    let rm = usize::from(form & 7);
    let in_register = form >> 6 == 3;
    const NONE: u8 = 0;
    const F3: u8 = 2;
    const F2: u8 = 3;
    match (prefix, opcode) {
        (F3, 0x5c) if in_register && third < 8 && extensions == 0 => {
            Some((Instruction::Multiply { sums: reg, rows: rm, pairs: third }, 5))
        }
        _ if third != 0 => None,
        (NONE, 0x49) if form == 0xc0 && extensions == 0 => Some((Instruction::Release, 5)),
        (F2, 0x49) if in_register && rm == 0 && extensions == 0 => Some((Instruction::Zero { tile: reg }, 5)),
        (NONE, 0x49) if !in_register && reg == 0 => {
            let (address, length) = Address::decode(byte, extensions, registers);
            Some((Instruction::Configure { from: address.start.wrapping_add(address.index) }, length))
        }
        // Rows need a byte that tells base and index apart.
        (F2 | F3, 0x4b) if !in_register && rm == 4 => {
            let (Address { start, index: stride }, length) = Address::decode(byte, extensions, registers);
            let instruction = match prefix {
                F2 => Instruction::Load { tile: reg, from: start, stride },
                _ => Instruction::Store { tile: reg, to: start, stride },
            };
            Some((instruction, length))
        }
        _ => None,
    }
}

/// An operand in memory: base and displacement, and the scaled index, which is the stride where there are rows.
struct Address {
    start: u64,
    index: u64,
}

impl Address {
    /// Reads the operand behind the opcode, and the length of the instruction, which ends with it.
    fn decode(byte: impl Fn(usize) -> u8, extensions: u8, registers: &Registers) -> (Address, usize) {
        let extended = |low: u8, bit: u8| usize::from(low) | if extensions & bit != 0 { 8 } else { 0 };
        let (mode, rm) = (byte(4) >> 6, byte(4) & 7);
        let mut at = 5;
        let (mut base, mut index) = (Some(extended(rm, 0x20)), 0);
        if rm == 4 {
            let sib = byte(at);
            at += 1;
            base = Some(extended(sib & 7, 0x20));
            let register = extended(sib >> 3 & 7, 0x40);
            // The number of the stack pointer says that there is no index.
            if register != 4 {
                index = registers.general[register] << (sib >> 6);
            }
        }
        // Without a displacement, the number of the base pointer says that there is no base, but a displacement.
        let baseless = mode == 0 && matches!(base, Some(5 | 13));
        if baseless {
            base = None;
        }
        let displacement = match mode {
            1 => {
                at += 1;
                i64::from(byte(at - 1) as i8)
            }
            0 if !baseless => 0,
            _ => {
                at += 4;
                i64::from(i32::from_le_bytes(std::array::from_fn(|i| byte(at - 4 + i))))
            }
        };
        let base = match base {
            Some(register) => registers.general[register],
            None if rm == 4 => 0,
            // Without base and index, displacements count from the next instruction.
            None => registers.instruction.wrapping_add(at as u64),
        };
        (Address { start: base.wrapping_add_signed(displacement), index }, at)
    }
}

/// Why the manual refuses an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// General protection: a configuration that there is none of.
    Palette,
    Reserved,
    TooManyRows,
    TooManyBytes,
    HalfEmpty,
    /// Invalid opcode: an instruction that the configuration does not allow.
    NotConfigured,
    NoSuchTile,
    FirstRow,
    SameTile,
    BrokenNumbers,
    Sizes,
}

impl Fault {
    pub fn reason(self) -> &'static str {
        match self {
            Fault::Palette => "ldtilecfg: there are palettes 0 and 1 only",
            Fault::Reserved => "ldtilecfg: reserved bytes are not zero",
            Fault::TooManyRows => "ldtilecfg: a tile has more than 16 rows",
            Fault::TooManyBytes => "ldtilecfg: a row has more than 64 bytes",
            Fault::HalfEmpty => "ldtilecfg: a tile has rows without bytes, or bytes without rows",
            Fault::NotConfigured => "tiles are used before ldtilecfg, or after tilerelease",
            Fault::NoSuchTile => "a tile is used that the configuration leaves out",
            Fault::FirstRow => "the first row is behind the last",
            Fault::SameTile => "tdpbf16ps: two operands are one tile",
            Fault::BrokenNumbers => "tdpbf16ps: a row ends within four bytes",
            Fault::Sizes => "tdpbf16ps: the tiles do not fit each other",
        }
    }
}

/// Rows of one tile and bytes of a row; none of either where the configuration leaves it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Size {
    rows: usize,
    bytes: usize,
}

/// One thread's eight tiles.
pub(super) struct Tiles {
    configured: bool,
    first_row: usize,
    sizes: [Size; 8],
    data: [[[u8; BYTES]; ROWS]; 8],
    executed: usize,
}

impl Tiles {
    /// As after `tilerelease`.
    pub const fn new() -> Tiles {
        let none = Size { rows: 0, bytes: 0 };
        Tiles { configured: false, first_row: 0, sizes: [none; 8], data: [[[0; BYTES]; ROWS]; 8], executed: 0 }
    }

    /// Carries out one instruction; one that is refused changes nothing.
    ///
    /// # Safety
    /// What it reads is readable, and what it writes is writable and touched by nobody else meanwhile.
    pub unsafe fn execute(&mut self, instruction: Instruction) -> Result<(), Fault> {
        match instruction {
            // SAFETY: the caller's promise; bytes need no alignment.
            Instruction::Configure { from } => self.configure(unsafe { &*(from as *const [u8; 64]) })?,
            Instruction::Release => self.release(),
            Instruction::Zero { tile } => {
                self.size(tile)?;
                self.data[tile] = [[0; BYTES]; ROWS];
                self.first_row = 0;
            }
            Instruction::Load { tile, from, stride } => {
                let size = self.rows_left(tile)?;
                for (row, bytes) in self.data[tile].iter_mut().enumerate().skip(self.first_row) {
                    *bytes = [0; BYTES];
                    if row < size.rows {
                        let from = from.wrapping_add(stride.wrapping_mul(row as u64)) as *const u8;
                        // SAFETY: the caller's promise.
                        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), size.bytes) };
                    }
                }
                self.first_row = 0;
            }
            Instruction::Store { tile, to, stride } => {
                let size = self.rows_left(tile)?;
                for (row, bytes) in self.data[tile].iter().enumerate().take(size.rows).skip(self.first_row) {
                    let to = to.wrapping_add(stride.wrapping_mul(row as u64)) as *mut u8;
                    // SAFETY: the caller's promise.
                    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), size.bytes) };
                }
                self.first_row = 0;
            }
            Instruction::Multiply { sums, rows, pairs } => self.multiply(sums, rows, pairs)?,
        }
        self.executed += 1;
        Ok(())
    }

    fn release(&mut self) {
        *self = Tiles { executed: self.executed, ..Tiles::new() };
    }

    fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), Fault> {
        match bytes[0] {
            0 => {
                self.release();
                return Ok(());
            }
            1 => (),
            _ => return Err(Fault::Palette),
        }
        if [&bytes[2..16], &bytes[32..48], &bytes[56..]].into_iter().flatten().any(|&byte| byte != 0) {
            return Err(Fault::Reserved);
        }
        let sizes: [Size; 8] = std::array::from_fn(|tile| Size {
            rows: bytes[48 + tile].into(),
            bytes: u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]).into(),
        });
        for size in sizes {
            if size.rows > ROWS {
                return Err(Fault::TooManyRows);
            }
            if size.bytes > BYTES {
                return Err(Fault::TooManyBytes);
            }
            if (size.rows == 0) != (size.bytes == 0) {
                return Err(Fault::HalfEmpty);
            }
        }
        self.release();
        (self.configured, self.first_row, self.sizes) = (true, bytes[1].into(), sizes);
        Ok(())
    }

    /// The size of a tile that may be used.
    fn size(&self, tile: usize) -> Result<Size, Fault> {
        match self.sizes[tile] {
            _ if !self.configured => Err(Fault::NotConfigured),
            Size { rows: 0, .. } => Err(Fault::NoSuchTile),
            size => Ok(size),
        }
    }

    /// As [`Tiles::size`], for an instruction that starts at the first row.
    fn rows_left(&self, tile: usize) -> Result<Size, Fault> {
        let size = self.size(tile)?;
        if self.first_row < size.rows { Ok(size) } else { Err(Fault::FirstRow) }
    }

    /// Even and odd terms are summed apart over the whole row, in float32 with fused multiply-adds that round to
    /// nearest and take and give zeros for denormal numbers; then their sum is added to what the tile holds. Processors
    /// need not give the payloads of NaN that this gives, and results next to the smallest normal number may differ:
    /// they are flushed here if they are denormal after rounding.
    fn multiply(&mut self, sums: usize, rows: usize, pairs: usize) -> Result<(), Fault> {
        let [of_sums, of_rows, of_pairs] = [self.size(sums)?, self.size(rows)?, self.size(pairs)?];
        if sums == rows || sums == pairs || rows == pairs {
            return Err(Fault::SameTile);
        }
        if [of_sums, of_rows, of_pairs].iter().any(|size| size.bytes % 4 != 0) {
            return Err(Fault::BrokenNumbers);
        }
        if of_sums.bytes != of_pairs.bytes || of_sums.rows != of_rows.rows || of_rows.bytes / 4 != of_pairs.rows {
            return Err(Fault::Sizes);
        }
        // A bfloat16 is the upper half of a float32.
        let term = |row: &[u8; BYTES], at: usize| normal(f32::from_le_bytes([0, 0, row[2 * at], row[2 * at + 1]]));
        for row in 0..ROWS {
            let mut result = [0; BYTES];
            if row < of_sums.rows {
                for lane in 0..of_sums.bytes / 4 {
                    let mut totals = [0.0; 2];
                    for pair in 0..of_pairs.rows {
                        for (odd, total) in totals.iter_mut().enumerate() {
                            let left = term(&self.data[rows][row], 2 * pair + odd);
                            let right = term(&self.data[pairs][pair], 2 * lane + odd);
                            *total = normal(left.mul_add(right, *total));
                        }
                    }
                    let bytes = 4 * lane..4 * lane + 4;
                    let before = &self.data[sums][row][bytes.clone()];
                    let before = f32::from_le_bytes([before[0], before[1], before[2], before[3]]);
                    let after = normal(normal(before) + normal(totals[0] + totals[1]));
                    result[bytes].copy_from_slice(&after.to_le_bytes());
                }
            }
            self.data[sums][row] = result;
        }
        self.first_row = 0;
        Ok(())
    }
}

/// Zero for a denormal number.
fn normal(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

thread_local! {
    // Made before any thread starts and never dropped, so that a signal handler may use it.
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::new()) };
}

/// Lets this process use AMX from now on, whatever the processor.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handler allocates nothing, takes no lock, and touches only what belongs to its thread.
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal_instruction as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
        };
        assert_eq!(failed, 0, "no handler for illegal instructions");
    });
}

/// How many instructions this thread has had emulated.
pub(super) fn executed() -> usize {
    // SAFETY: no illegal instruction is under way here, so no handler holds the tiles.
    TILES.with(|tiles| unsafe { (*tiles.get()).executed })
}

/// The numbers of the registers in a signal's context, in the order of their encodings.
const GENERAL: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_illegal_instruction(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands over the context of the thread that it stopped, which nobody else touches.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let instruction = registers[libc::REG_RIP as usize] as u64;
    let general = GENERAL.map(|register| registers[register as usize] as u64);
    // SAFETY: the processor has read these bytes, and decoding reads none behind the instruction.
    let byte = |at: usize| unsafe { *(instruction as *const u8).add(at) };
    let Some((decoded, length)) = decode(byte, &Registers { general, instruction }) else {
        // Not ours: the instruction is executed again, and ends the process as if there were no handler.
        // SAFETY: the call is allowed in handlers.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    // SAFETY: the thread was stopped in a kernel, not in a use of its tiles; what the instruction reads and writes is
    // the kernel's to read and write.
    match TILES.with(|tiles| unsafe { (*tiles.get()).execute(decoded) }) {
        Ok(()) => registers[libc::REG_RIP as usize] = instruction.wrapping_add(length as u64) as i64,
        Err(fault) => refuse(fault),
    }
}

/// Says why, and ends the process.
fn refuse(fault: Fault) -> ! {
    for part in ["AMX emulation: ", fault.reason(), "\n"] {
        // SAFETY: the call is allowed in handlers; the text lies in memory that stays.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: the call is allowed in handlers.
    unsafe { libc::abort() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::arch::asm;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    fn registers() -> Registers {
        let mut registers = Registers { instruction: 0x40_0000, ..Registers::default() };
        for (number, register) in registers.general.iter_mut().enumerate() {
            *register = 0x1_0000 * (number as u64 + 1);
        }
        registers
    }

    #[test]
    fn instructions_are_read_as_an_assembler_writes_them() {
        use Instruction::*;
        // As GNU as writes `ldtilecfg (%rdx)` and so on.
        let cases: [(&[u8], Instruction); 15] = [
            (&[0xc4, 0xe2, 0x78, 0x49, 0x02], Configure { from: 0x3_0000 }),
            // 0x10000000(%rbp,%r14,8)
            (
                &[0xc4, 0xa2, 0x78, 0x49, 0x84, 0xf5, 0, 0, 0, 0x10],
                Configure { from: 0x1000_0000 + 0x6_0000 + 0x78_0000 },
            ),
            // 0x123(%r8,%rax,4)
            (&[0xc4, 0xc2, 0x78, 0x49, 0x84, 0x80, 0x23, 1, 0, 0], Configure { from: 0x123 + 0x9_0000 + 0x4_0000 }),
            // -0x20(,%rbp,2)
            (&[0xc4, 0xe2, 0x78, 0x49, 0x04, 0x6d, 0xe0, 0xff, 0xff, 0xff], Configure { from: 0xc_0000 - 0x20 }),
            // 0x40(%rip)
            (&[0xc4, 0xe2, 0x78, 0x49, 0x05, 0x40, 0, 0, 0], Configure { from: 0x40_0000 + 9 + 0x40 }),
            // (%r12)
            (&[0xc4, 0xc2, 0x78, 0x49, 0x04, 0x24], Configure { from: 0xd_0000 }),
            // (%r13)
            (&[0xc4, 0xc2, 0x78, 0x49, 0x45, 0], Configure { from: 0xe_0000 }),
            (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Release),
            (&[0xc4, 0xe2, 0x7b, 0x49, 0xe8], Zero { tile: 5 }),
            // 0x10000000(%rbp,%r14,8)
            (
                &[0xc4, 0xa2, 0x7b, 0x4b, 0xb4, 0xf5, 0, 0, 0, 0x10],
                Load { tile: 6, from: 0x1000_0000 + 0x6_0000, stride: 0x78_0000 },
            ),
            // (%r13,%rsi,1)
            (&[0xc4, 0xc2, 0x7b, 0x4b, 0x7c, 0x35, 0], Load { tile: 7, from: 0xe_0000, stride: 0x7_0000 }),
            // -4(%rsp)
            (&[0xc4, 0xe2, 0x7b, 0x4b, 0x4c, 0x24, 0xfc], Load { tile: 1, from: 0x5_0000 - 4, stride: 0 }),
            // 0x10000000(%rbp,%r14,8)
            (
                &[0xc4, 0xa2, 0x7a, 0x4b, 0xb4, 0xf5, 0, 0, 0, 0x10],
                Store { tile: 6, to: 0x1000_0000 + 0x6_0000, stride: 0x78_0000 },
            ),
            // (%rdi,%r12)
            (&[0xc4, 0xa2, 0x7a, 0x4b, 0x1c, 0x27], Store { tile: 3, to: 0x8_0000, stride: 0xd_0000 }),
            (&[0xc4, 0xe2, 0x5a, 0x5c, 0xf5], Multiply { sums: 6, rows: 5, pairs: 4 }),
        ];
        for (bytes, instruction) in cases {
            assert_eq!(decode(|at| bytes[at], &registers()), Some((instruction, bytes.len())), "{bytes:x?}");
        }
    }

    #[test]
    fn other_instructions_are_left_alone() {
        let cases: [&[u8]; 9] = [
            // ud2, nop, and a vaddps with the short prefix.
            &[0x0f, 0x0b],
            &[0x90],
            &[0xc5, 0xf8, 0x58, 0xc0],
            // sttilecfg (%rdx), tileloaddt1 (%r13,%rsi,1), tdpbssd.
            &[0xc4, 0xe2, 0x79, 0x49, 0x02],
            &[0xc4, 0xc2, 0x79, 0x4b, 0x7c, 0x35, 0],
            &[0xc4, 0xe2, 0x5b, 0x5e, 0xf5],
            // tileloadd without a second address byte, tilezero of a tile 13, tdpbf16ps with a vector of 256 bits.
            &[0xc4, 0xe2, 0x7b, 0x4b, 0x3e],
            &[0xc4, 0x62, 0x7b, 0x49, 0xe8],
            &[0xc4, 0xe2, 0x5e, 0x5c, 0xf5],
        ];
        for bytes in cases {
            assert_eq!(decode(|at| bytes[at], &registers()), None, "{bytes:x?}");
        }
    }

    /// What `ldtilecfg` reads for `(rows, bytes)` of the first tiles.
    fn configuration(tiles: &[(u8, u16)]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, &(rows, row)) in tiles.iter().enumerate() {
            bytes[16 + 2 * tile..18 + 2 * tile].copy_from_slice(&row.to_le_bytes());
            bytes[48 + tile] = rows;
        }
        bytes
    }

    fn configured(tiles: &[(u8, u16)]) -> Tiles {
        let mut model = Tiles::new();
        assert_eq!(model.configure(&configuration(tiles)), Ok(()));
        model
    }

    #[test]
    fn configurations_outside_of_palette_1_are_refused() {
        let whole = configuration(&[(16, 64); 8]);
        let with = |at: usize, value: u8| {
            let mut bytes = whole;
            bytes[at] = value;
            Tiles::new().configure(&bytes)
        };
        assert_eq!(with(0, 1), Ok(()));
        assert_eq!(with(0, 2), Err(Fault::Palette));
        for reserved in [2, 15, 32, 47, 56, 63] {
            assert_eq!(with(reserved, 1), Err(Fault::Reserved), "byte {reserved}");
        }
        assert_eq!(with(48, 17), Err(Fault::TooManyRows));
        assert_eq!(with(30, 65), Err(Fault::TooManyBytes));
        assert_eq!(with(31, 1), Err(Fault::TooManyBytes));
        assert_eq!(with(51, 0), Err(Fault::HalfEmpty));
        assert_eq!(with(18, 0), Err(Fault::HalfEmpty));
    }

    #[test]
    fn tiles_are_refused_that_are_not_configured() {
        let execute = |model: &mut Tiles, instruction| {
            // SAFETY: these instructions touch no memory, or are refused before they do.
            unsafe { model.execute(instruction) }
        };
        let uses = [
            Instruction::Zero { tile: 3 },
            Instruction::Load { tile: 3, from: 0, stride: 64 },
            Instruction::Store { tile: 3, to: 0, stride: 64 },
            Instruction::Multiply { sums: 3, rows: 1, pairs: 2 },
        ];
        for instruction in uses {
            assert_eq!(execute(&mut Tiles::new(), instruction), Err(Fault::NotConfigured));
            assert_eq!(execute(&mut configured(&[(16, 64); 3]), instruction), Err(Fault::NoSuchTile));
            let mut released = configured(&[(16, 64); 4]);
            assert_eq!(execute(&mut released, Instruction::Release), Ok(()));
            assert_eq!(execute(&mut released, instruction), Err(Fault::NotConfigured));
        }
    }

    #[test]
    fn tiles_are_refused_that_do_not_fit_each_other() {
        let multiply = |tiles: [(u8, u16); 3], sums, rows, pairs| {
            // SAFETY: the instruction touches no memory.
            unsafe { configured(&tiles).execute(Instruction::Multiply { sums, rows, pairs }) }
        };
        assert_eq!(multiply([(16, 64), (16, 64), (16, 64)], 0, 1, 2), Ok(()));
        assert_eq!(multiply([(16, 64), (16, 32), (8, 64)], 0, 1, 2), Ok(()));
        assert_eq!(multiply([(16, 64), (16, 64), (8, 64)], 0, 1, 2), Err(Fault::Sizes));
        assert_eq!(multiply([(16, 64), (8, 64), (16, 64)], 0, 1, 2), Err(Fault::Sizes));
        assert_eq!(multiply([(16, 32), (16, 64), (16, 64)], 0, 1, 2), Err(Fault::Sizes));
        assert_eq!(multiply([(16, 64), (16, 30), (7, 64)], 0, 1, 2), Err(Fault::BrokenNumbers));
        for (sums, rows, pairs) in [(0, 0, 1), (0, 1, 0), (0, 1, 1)] {
            assert_eq!(multiply([(16, 64), (16, 64), (16, 64)], sums, rows, pairs), Err(Fault::SameTile));
        }
    }

    /// A product of 3 rows with 2 lanes over 4 terms, whose pairs are read with `stride` bytes from one to the next.
    fn product(stride: u64) -> [[f32; 2]; 3] {
        let bytes = |numbers: &[i8]| -> Vec<u8> {
            numbers.iter().flat_map(|&x| half::bf16::from_f32(x.into()).to_le_bytes()).collect()
        };
        let rows = bytes(&[1, 2, 3, 4, -1, 0, 2, 5, 7, 0, 0, 1]);
        // Pairs of terms, lane after lane, with two numbers between the pairs.
        let pairs = bytes(&[1, 2, 5, 6, 99, 99, 3, 4, 7, 8, 99, 99]);
        let mut sums = [[0.0; 2]; 3];
        let mut model = configured(&[(3, 8), (3, 8), (2, 8)]);
        let instructions = [
            Instruction::Zero { tile: 0 },
            Instruction::Load { tile: 1, from: rows.as_ptr() as u64, stride: 8 },
            Instruction::Load { tile: 2, from: pairs.as_ptr() as u64, stride },
            Instruction::Multiply { sums: 0, rows: 1, pairs: 2 },
            Instruction::Store { tile: 0, to: sums.as_mut_ptr() as u64, stride: 8 },
        ];
        for instruction in instructions {
            // SAFETY: the vectors hold these rows, for strides up to that of the pairs.
            assert_eq!(unsafe { model.execute(instruction) }, Ok(()));
        }
        sums
    }

    #[test]
    fn a_wrong_stride_gives_wrong_sums() {
        let by_hand = [[30.0, 70.0], [25.0, 49.0], [11.0, 43.0]];
        assert_eq!(product(12), by_hand);
        assert_ne!(product(8), by_hand);
        assert_ne!(product(0), by_hand);
    }

    #[test]
    fn denormal_numbers_are_zeros_on_both_sides() {
        let tiny = f32::MIN_POSITIVE;
        let multiply = |before: f32, left: f32, right: f32| {
            let mut model = configured(&[(1, 4), (1, 4), (1, 4)]);
            model.data[0][0][..4].copy_from_slice(&before.to_le_bytes());
            model.data[1][0][..2].copy_from_slice(&half::bf16::from_f32(left).to_le_bytes());
            model.data[2][0][..2].copy_from_slice(&half::bf16::from_f32(right).to_le_bytes());
            assert_eq!(model.multiply(0, 1, 2), Ok(()));
            let sum = &model.data[0][0];
            f32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])
        };
        assert_eq!(multiply(1.0, 2.0, 3.0), 7.0);
        assert_eq!(multiply(0.0, tiny, 2.0), tiny * 2.0);
        assert_eq!(multiply(0.0, tiny / 2.0, 4.0), 0.0);
        assert_eq!(multiply(0.0, tiny, 0.5), 0.0);
        assert_eq!(multiply(tiny / 2.0, 0.0, 0.0), 0.0);
        assert!(multiply(f32::NAN, 1.0, 1.0).is_nan());
    }

    /// Runs this module's test of that name in a process of its own, where it is to do what ends processes.
    fn in_own_process(test: &str) -> std::process::Output {
        let module = module_path!().split_once("::").map_or("", |(_, module)| module);
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
            .env(OWN_PROCESS, "1")
            .output()
            .unwrap()
    }
    const OWN_PROCESS: &str = "CORONET_TEST_OWN_PROCESS";

    #[test]
    fn a_refused_instruction_ends_the_process_with_the_reason() {
        if std::env::var_os(OWN_PROCESS).is_some() {
            install();
            // SAFETY: the process is here to end at this instruction.
            unsafe { asm!("tilezero tmm0", options(nomem, nostack, preserves_flags)) };
            return;
        }
        let output = in_own_process("a_refused_instruction_ends_the_process_with_the_reason");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{errors}");
        assert!(errors.contains(Fault::NotConfigured.reason()), "{errors}");
    }

    #[test]
    fn an_instruction_of_no_kind_ends_the_process_as_ever() {
        if std::env::var_os(OWN_PROCESS).is_some() {
            install();
            // SAFETY: the process is here to end at this instruction.
            unsafe { asm!("ud2", options(nomem, nostack, preserves_flags)) };
            return;
        }
        let output = in_own_process("an_instruction_of_no_kind_ends_the_process_as_ever");
        assert_eq!(output.status.signal(), Some(libc::SIGILL));
    }
}
