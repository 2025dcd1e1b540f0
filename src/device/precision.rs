//! In what precision a device multiplies.

use std::fmt;
use std::str::FromStr;

/// The numbers that convolutions, but for the temporal one, multiply; sums are taken in float32 throughout. Operands of the
/// products are rounded to them. Filters that do not change are kept so, and in float16, unless a program trains, maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE 754 binary32: 24 significant bits.
    Float32,
    /// The upper 19 bits of a float32, on tensor cores: 11 significant bits, the range of float32.
    Tf32,
    /// IEEE 754 binary16, on tensor cores: 11 significant bits, up to 65504. What may be beyond that, after a few convolutions
    /// without a norm, and gradients, which may be too small, is multiplied in tf32.
    Float16,
    /// The upper half of a float32, on tensor cores: 8 significant bits, the range of float32.
    BFloat16,
}

impl Precision {
    /// All there are.
    pub const ALL: [Precision; 4] = [Precision::Float32, Precision::Tf32, Precision::Float16, Precision::BFloat16];

    /// The name that people give on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Tf32 => "tf32",
            Precision::Float16 => "float16",
            Precision::BFloat16 => "bfloat16",
        }
    }

    /// Bytes of a number that is kept in the format.
    pub fn bytes(self) -> usize {
        match self {
            Precision::Float32 | Precision::Tf32 => 4,
            Precision::Float16 | Precision::BFloat16 => 2,
        }
    }

    /// The nearest number of the format, ties to even (tf32: away from zero); what is too large becomes infinite.
    ///
    /// A NaN stays one, but for a tf32 whose 13 lowest bits alone tell it from an infinity: it becomes that infinity, as
    /// it does on GPUs. No arithmetic makes such a NaN, only bits from elsewhere can be one.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::Float32 => x,
            Precision::Tf32 => f32::from_bits((x.to_bits() + if x.is_finite() { 0x1000 } else { 0 }) & !0x1fff),
            Precision::Float16 => half::f16::from_f32(x).to_f32(),
            Precision::BFloat16 => half::bf16::from_f32(x).to_f32(),
        }
    }
}

/// The two formats of 16 bits.
#[cfg(any(feature = "cuda", feature = "emulator"))]
impl Precision {
    /// Whether operands of products have 16 bits.
    pub(crate) fn is_half(self) -> bool {
        matches!(self, Precision::Float16 | Precision::BFloat16)
    }

    /// The bits of [`Precision::round`] in a format of 16 bits.
    pub(crate) fn to_half(self, x: f32) -> u16 {
        match self {
            Precision::BFloat16 => half::bf16::from_f32(x).to_bits(),
            _ => half::f16::from_f32(x).to_bits(),
        }
    }

    /// The number of such bits.
    pub(crate) fn of_half(self, bits: u16) -> f32 {
        match self {
            Precision::BFloat16 => half::bf16::from_bits(bits).to_f32(),
            _ => half::f16::from_bits(bits).to_f32(),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Precision, String> {
        match text {
            "fp32" => return Ok(Precision::Float32),
            "fp16" => return Ok(Precision::Float16),
            "bf16" => return Ok(Precision::BFloat16),
            _ => {}
        }
        let found = Precision::ALL.into_iter().find(|precision| precision.name() == text);
        found.ok_or_else(|| format!("a precision is float32, tf32, float16 or bfloat16, not {text}"))
    }
}

/// A precision as people ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// The device's [`super::Device::fastest_precision`].
    Auto,
    /// This one.
    Only(Precision),
}

impl fmt::Display for PrecisionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrecisionChoice::Auto => f.pad("auto"),
            PrecisionChoice::Only(precision) => precision.fmt(f),
        }
    }
}

impl FromStr for PrecisionChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<PrecisionChoice, String> {
        match text {
            "auto" => Ok(PrecisionChoice::Auto),
            _ => text.parse().map(PrecisionChoice::Only).map_err(|problem: String| format!("{problem}; or auto")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert!("fp8".parse::<Precision>().unwrap_err().ends_with("not fp8"));
        for (short, precision) in
            [("fp32", Precision::Float32), ("fp16", Precision::Float16), ("bf16", Precision::BFloat16)]
        {
            assert_eq!(short.parse(), Ok(precision));
            assert_eq!(short.parse(), Ok(PrecisionChoice::Only(precision)));
        }
        assert_eq!(PrecisionChoice::Auto.to_string().parse(), Ok(PrecisionChoice::Auto));
        assert!("fp8".parse::<PrecisionChoice>().unwrap_err().ends_with("not fp8; or auto"));
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let rounded =
            |precision: Precision| [1.0 + 1.0 / 1024.0, 1.0 + 1.0 / 2048.0, 70000.0].map(|x| precision.round(x));
        assert_eq!(rounded(Precision::Float16), [1.0 + 1.0 / 1024.0, 1.0, f32::INFINITY]);
        assert_eq!(rounded(Precision::Tf32), [1.0 + 1.0 / 1024.0, 1.0 + 1.0 / 1024.0, 70016.0]);
        assert_eq!(rounded(Precision::BFloat16), [1.0, 1.0, 70144.0]);
    }

    #[test]
    fn a_nan_that_arithmetic_makes_stays_one() {
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7fff_ffff), std::hint::black_box(f32::INFINITY) * 0.0] {
            assert!(Precision::ALL.into_iter().all(|precision| precision.round(nan).is_nan()));
        }
    }
}
