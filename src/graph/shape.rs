//! Shapes: what a value is, and how many elements it has.
//!
//! The variant says what the numbers mean, so that a filter can never be taken for a stack of maps. Elements are
//! listed in the order of the fields, last one fastest (NCHW for maps), as in weights files and in the public API.

use std::fmt;

/// What a value is and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One number.
    Scalar,
    /// One number per channel: a bias, or the scale and shift of a norm.
    Channels {
        /// How many channels.
        channels: usize,
    },
    /// Images or feature maps, `[batch, channels, height, width]`.
    Maps {
        /// Independent samples.
        batch: usize,
        /// Channels of each sample.
        channels: usize,
        /// Rows.
        height: usize,
        /// Pixels per row.
        width: usize,
    },
    /// Windows of consecutive frames, `[batch, channels, frames, height, width]`.
    Window {
        /// Independent samples.
        batch: usize,
        /// Channels of each frame.
        channels: usize,
        /// Frames, oldest first.
        frames: usize,
        /// Rows.
        height: usize,
        /// Pixels per row.
        width: usize,
    },
    /// The weights of a convolution, `[outputs, inputs, height, width]`. A transposed convolution runs that
    /// convolution backwards: its own input has `outputs` channels and its own output `inputs`.
    Filter {
        /// Channels the convolution produces.
        outputs: usize,
        /// Channels the convolution reads.
        inputs: usize,
        /// Kernel rows.
        height: usize,
        /// Kernel columns.
        width: usize,
    },
    /// The weights of a temporal convolution, `[outputs, channels, frames, height, width]`.
    TemporalFilter {
        /// Channels produced.
        outputs: usize,
        /// Channels of a frame.
        channels: usize,
        /// Frames spanned.
        frames: usize,
        /// Kernel rows.
        height: usize,
        /// Kernel columns.
        width: usize,
    },
    /// A few numbers per sample and channel, `[batch, channels, entries]`.
    Statistics {
        /// Independent samples.
        batch: usize,
        /// Channels of each sample.
        channels: usize,
        /// Numbers per channel.
        entries: usize,
    },
}

/// The most numbers a value may hold, 4 TB of float32: sums over all values of a program stay far from overflow.
const MOST_ELEMENTS: usize = 1 << 40;

impl Shape {
    /// `[batch, channels, height, width]` maps.
    pub fn maps(batch: usize, channels: usize, height: usize, width: usize) -> Shape {
        Shape::Maps { batch, channels, height, width }
    }

    /// The sizes of the dimensions, outermost first; empty for a scalar.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Shape::Scalar => vec![],
            Shape::Channels { channels } => vec![channels],
            Shape::Maps { batch, channels, height, width } => vec![batch, channels, height, width],
            Shape::Window { batch, channels, frames, height, width } => vec![batch, channels, frames, height, width],
            Shape::Filter { outputs, inputs, height, width } => vec![outputs, inputs, height, width],
            Shape::TemporalFilter { outputs, channels, frames, height, width } => {
                vec![outputs, channels, frames, height, width]
            }
            Shape::Statistics { batch, channels, entries } => vec![batch, channels, entries],
        }
    }

    /// Checks that the shape holds at least one number and not absurdly many.
    ///
    /// # Errors
    /// Half a sentence.
    pub fn check(&self) -> Result<(), String> {
        let elements = self.dims().into_iter().try_fold(1usize, |product, side| product.checked_mul(side));
        match elements {
            Some(0) => Err(format!("{self} has a side of 0")),
            Some(elements) if elements <= MOST_ELEMENTS => Ok(()),
            _ => Err(format!("{self} is too large")),
        }
    }

    /// How many numbers a value of this shape holds.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Shape::Scalar => return f.write_str("scalar"),
            Shape::Channels { .. } => "channels",
            Shape::Maps { .. } => "maps",
            Shape::Window { .. } => "window",
            Shape::Filter { .. } => "filter",
            Shape::TemporalFilter { .. } => "temporal filter",
            Shape::Statistics { .. } => "statistics",
        };
        let dims: Vec<String> = self.dims().iter().map(usize::to_string).collect();
        write!(f, "{kind} {}", dims.join("x"))
    }
}

/// Numbers with a shape, in the order [`Shape`] documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<T = f32> {
    shape: Shape,
    data: Vec<T>,
}

impl<T: Copy> Tensor<T> {
    /// A tensor of `data`, or `None` when the count of numbers is not `shape.elements()`.
    pub fn new(shape: Shape, data: Vec<T>) -> Option<Tensor<T>> {
        (data.len() == shape.elements()).then_some(Tensor { shape, data })
    }

    /// A tensor of one repeated number.
    pub fn filled(shape: Shape, value: T) -> Tensor<T> {
        Tensor { shape, data: vec![value; shape.elements()] }
    }

    /// A tensor whose number at flat index `i` is `value(i)`.
    pub fn from_fn(shape: Shape, value: impl FnMut(usize) -> T) -> Tensor<T> {
        Tensor { shape, data: (0..shape.elements()).map(value).collect() }
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The numbers, last dimension fastest.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The numbers, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The numbers alone.
    pub fn into_data(self) -> Vec<T> {
        self.data
    }

    /// The same shape with every number converted.
    pub fn map<U: Copy>(&self, f: impl FnMut(T) -> U) -> Tensor<U> {
        Tensor { shape: self.shape, data: self.data.iter().copied().map(f).collect() }
    }
}

impl Tensor<f32> {
    /// The same numbers in double precision.
    pub fn to_f64(&self) -> Tensor<f64> {
        self.map(f64::from)
    }
}
