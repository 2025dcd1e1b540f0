//! How a tensor lies in its storage: element type, offset, sizes and strides, as PyTorch describes it.
//!
//! A layout is checked against the storage's length before a single number is read; afterwards no index can leave it.

use half::{bf16, f16};

/// The type of a stored number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an [`Element::F32`].
    BF16,
    /// Any type whose numbers cannot become weights: integers, truth values, complex or quantised numbers.
    Other {
        /// What it is called where it is stored.
        name: &'static str,
        /// Bytes of one number.
        bytes: usize,
    },
}

/// Storage classes (`torch.FloatStorage`) and types (`torch.float32`) of PyTorch. Pickles name the one or the other.
const TYPES: [(&str, &str, Element); 17] = [
    ("DoubleStorage", "float64", Element::F64),
    ("FloatStorage", "float32", Element::F32),
    ("HalfStorage", "float16", Element::F16),
    ("BFloat16Storage", "bfloat16", Element::BF16),
    ("LongStorage", "int64", Element::Other { name: "int64", bytes: 8 }),
    ("IntStorage", "int32", Element::Other { name: "int32", bytes: 4 }),
    ("ShortStorage", "int16", Element::Other { name: "int16", bytes: 2 }),
    ("CharStorage", "int8", Element::Other { name: "int8", bytes: 1 }),
    ("ByteStorage", "uint8", Element::Other { name: "uint8", bytes: 1 }),
    ("BoolStorage", "bool", Element::Other { name: "bool", bytes: 1 }),
    ("ComplexFloatStorage", "complex64", Element::Other { name: "complex64", bytes: 8 }),
    ("ComplexDoubleStorage", "complex128", Element::Other { name: "complex128", bytes: 16 }),
    ("UntypedStorage", "", Element::Other { name: "bytes", bytes: 1 }),
    // Types without a storage class of their own.
    ("", "uint16", Element::Other { name: "uint16", bytes: 2 }),
    ("", "uint32", Element::Other { name: "uint32", bytes: 4 }),
    ("", "uint64", Element::Other { name: "uint64", bytes: 8 }),
    ("", "float8_e4m3fn", Element::Other { name: "float8_e4m3fn", bytes: 1 }),
];

impl Element {
    /// That of a storage class of PyTorch, such as `FloatStorage`.
    pub(super) fn of_storage(class: &str) -> Option<Element> {
        TYPES.iter().find(|(storage, _, _)| *storage == class && !class.is_empty()).map(|&(_, _, element)| element)
    }

    /// That of a type of PyTorch, such as `float32`.
    pub(super) fn of_dtype(name: &str) -> Option<Element> {
        TYPES.iter().find(|(_, dtype, _)| *dtype == name && !name.is_empty()).map(|&(_, _, element)| element)
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Element::F64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
            Element::Other { bytes, .. } => bytes,
        }
    }

    /// Its name, as PyTorch has it.
    pub fn name(self) -> &'static str {
        match self {
            Element::F64 => "float64",
            Element::F32 => "float32",
            Element::F16 => "float16",
            Element::BF16 => "bfloat16",
            Element::Other { name, .. } => name,
        }
    }

    /// Turns the bytes of one number into a double, which holds each of these types exactly.
    fn decoder(self) -> Option<fn(&[u8]) -> f64> {
        match self {
            Element::F64 => Some(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])),
            Element::F32 => Some(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Element::F16 => Some(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()),
            Element::BF16 => Some(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()),
            Element::Other { .. } => None,
        }
    }
}

/// A tensor's place in a storage. Offset and strides count elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub(super) element: Element,
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) dims: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// Product of the sizes; known to fit once the layout has been checked.
    elements: usize,
}

impl Layout {
    /// Checks offset, sizes and strides, whatever numbers a file gives, against the bytes its storage has.
    ///
    /// # Errors
    /// What is wrong, as the rest of a sentence about the tensor.
    pub(super) fn check(
        element: Element,
        (storage, storage_bytes): (usize, usize),
        offset: i128,
        sizes: &[i128],
        strides: &[i128],
    ) -> Result<Layout, String> {
        let shown = || shape_text(sizes);
        let whole = |numbers: &[i128]| numbers.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
        let (Some(dims), Some(strides), Ok(offset)) = (whole(sizes), whole(strides), usize::try_from(offset)) else {
            return Err(format!("has the shape {} at an impossible place", shown()));
        };
        if dims.len() != strides.len() {
            return Err(format!("has {} sizes but {} strides", dims.len(), strides.len()));
        }
        let held = storage_bytes / element.bytes();
        let too_small = || format!("has the shape {}, but its storage holds {held} numbers", shown());
        let elements = dims.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        // No tensor has more numbers than its storage: one stored number cannot stand for a shape that fills memory.
        let elements = elements.filter(|&elements| elements <= held).ok_or_else(too_small)?;
        let last = dims
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (&side, &stride)| at.checked_add(side.saturating_sub(1).checked_mul(stride)?));
        if elements > 0 && last.is_none_or(|last| last >= held) {
            return Err(format!("reaches beyond its storage, which holds {held} numbers"));
        }
        Ok(Layout { element, storage, offset, dims, strides, elements })
    }

    /// The type of its numbers.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Its sizes, outermost first; empty for a single number.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The tensor's numbers, last dimension fastest, out of its storage's bytes.
    ///
    /// # Errors
    /// As the rest of a sentence about the tensor: when its type is none of the four floating-point ones, or a number
    /// is not finite in single precision.
    pub(super) fn gather(&self, storage: &[u8]) -> Result<Vec<f32>, String> {
        let size = self.element.bytes();
        let Some(decode) = self.element.decoder() else {
            return Err(format!("is {}, not floating-point", self.element.name()));
        };
        let mut numbers = Vec::with_capacity(self.elements);
        let mut index = vec![0; self.dims.len()];
        let mut at = self.offset;
        for position in 0..self.elements {
            // Beyond the storage only if it has shrunk since the layout was checked.
            let bytes = storage.get(at * size..(at + 1) * size).ok_or("is cut short")?;
            let number = decode(bytes);
            if !(number as f32).is_finite() {
                return Err(format!("holds {number:?} at position {position}, which is no finite float32"));
            }
            numbers.push(number as f32);
            at = self.next(&mut index, at);
        }
        Ok(numbers)
    }

    /// Counts `index` on by one, last dimension fastest, and moves the place in the storage along.
    fn next(&self, index: &mut [usize], mut at: usize) -> usize {
        for dimension in (0..index.len()).rev() {
            if index[dimension] + 1 < self.dims[dimension] {
                index[dimension] += 1;
                return at + self.strides[dimension];
            }
            at -= index[dimension] * self.strides[dimension];
            index[dimension] = 0;
        }
        at
    }
}

/// Strides of a tensor that lies densely, last dimension fastest.
pub(super) fn dense_strides(dims: &[i128]) -> Vec<i128> {
    let mut strides = vec![1i128; dims.len()];
    for dimension in (1..dims.len()).rev() {
        strides[dimension - 1] = strides[dimension].saturating_mul(dims[dimension].max(1));
    }
    strides
}

/// `[64, 3, 7, 7]`, cut where somebody wrote an absurd number of sizes.
fn shape_text(sizes: &[i128]) -> String {
    let shown: Vec<String> = sizes.iter().take(6).map(i128::to_string).collect();
    format!("[{}{}]", shown.join(", "), if sizes.len() > 6 { ", ..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<u8> {
        (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    fn gathered(offset: i128, sizes: &[i128], strides: &[i128]) -> Result<Vec<f32>, String> {
        let bytes = numbers(12);
        Layout::check(Element::F32, (0, bytes.len()), offset, sizes, strides)?.gather(&bytes)
    }

    #[test]
    fn strides_and_offsets_pick_the_numbers_that_pytorch_would() {
        assert_eq!(gathered(0, &[2, 3], &[3, 1]).unwrap(), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(gathered(0, &[3, 2], &[1, 3]).unwrap(), [0., 3., 1., 4., 2., 5.], "transposed");
        assert_eq!(gathered(1, &[2, 2], &[6, 2]).unwrap(), [1., 3., 7., 9.], "every second column");
        assert_eq!(gathered(11, &[], &[]).unwrap(), [11.], "a single number");
        assert!(gathered(99, &[0, 4], &[4, 1]).unwrap().is_empty(), "nothing can lie anywhere");
        assert_eq!(gathered(3, &[2, 2], &[0, 1]).unwrap(), [3., 4., 3., 4.], "repeated rows");
    }

    #[test]
    fn whatever_leaves_the_storage_is_refused() {
        for (offset, sizes, strides) in [
            (1, &[12][..], &[1][..]),
            (0, &[2, 2], &[11, 1]),
            (12, &[], &[]),
            (0, &[13], &[0]),
            (-1, &[2], &[1]),
            (0, &[-2], &[1]),
            (0, &[2], &[-1]),
            (0, &[2, 2], &[1]),
            (0, &[i128::MAX, 2], &[1, 1]),
            (0, &[1 << 40, 1 << 40], &[1, 1]),
            (0, &[2, 2], &[1 << 62, 1 << 63]),
            (i128::from(u64::MAX), &[2], &[1]),
        ] {
            assert!(gathered(offset, sizes, strides).is_err(), "{offset} {sizes:?} {strides:?}");
        }
    }

    #[test]
    fn every_floating_point_type_is_read_and_what_is_not_finite_is_refused_by_place() {
        let read = |element: Element, bytes: &[u8]| {
            Layout::check(element, (0, bytes.len()), 0, &[2], &[1]).unwrap().gather(bytes)
        };
        let both = |one: &[u8], two: &[u8]| [one, two].concat();
        assert_eq!(read(Element::F64, &both(&1.5f64.to_le_bytes(), &(-2f64).to_le_bytes())).unwrap(), [1.5, -2.]);
        let f16s = both(&f16::from_f32(1.5).to_le_bytes(), &f16::from_f32(6e-8).to_le_bytes());
        assert_eq!(read(Element::F16, &f16s).unwrap(), [1.5, 2f32.powi(-24)], "subnormals, too");
        let bf16s = both(&bf16::from_f32(1.5).to_le_bytes(), &bf16::from_f32(3e38).to_le_bytes());
        assert_eq!(read(Element::BF16, &bf16s).unwrap(), [1.5, bf16::from_f32(3e38).to_f32()]);
        let problem = read(Element::F64, &both(&0f64.to_le_bytes(), &1e300f64.to_le_bytes())).unwrap_err();
        assert_eq!(problem, "holds 1e300 at position 1, which is no finite float32");
        let problem = read(Element::F16, &both(&f16::NAN.to_le_bytes(), &[0, 0])).unwrap_err();
        assert_eq!(problem, "holds NaN at position 0, which is no finite float32");
        let integers = Element::of_storage("LongStorage").unwrap();
        assert_eq!(read(integers, &[0; 16]).unwrap_err(), "is int64, not floating-point");
    }
}
