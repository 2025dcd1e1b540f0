//! The configuration of a 3D-2D CE-Net, checked once, and how to read it off a set of parameters.

use crate::error::{Error, Result};
use crate::graph::Shape;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How the input is reduced before the first encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// To one half, as the article's text says: conv 3/1, max pool 2/2.
    Half,
    /// To one quarter, as in CE-Net itself: conv 7/2, max pool 3/2. About 3.2 times cheaper.
    Quarter,
}

impl Stem {
    /// The name used in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Stem::Half => "half",
            Stem::Quarter => "quarter",
        }
    }

    /// How many times smaller than the input the bottleneck is.
    pub fn reduction(self) -> usize {
        match self {
            Stem::Half => 16,
            Stem::Quarter => 32,
        }
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stem {
    type Err = String;

    fn from_str(text: &str) -> Result<Stem, String> {
        match text {
            "half" => Ok(Stem::Half),
            "quarter" => Ok(Stem::Quarter),
            other => Err(format!("a stem is half or quarter, not {other}")),
        }
    }
}

/// The name of the architecture in files.
pub const ARCHITECTURE: &str = "cenet3d";

/// Width, stem, window and channels of a 3D-2D CE-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Config {
    width: usize,
    stem: Stem,
    neighbours: usize,
    in_channels: usize,
}

/// Sides of the largest pooling cell of the residual multi-kernel pooling: the least bottleneck.
const LEAST_BOTTLENECK: usize = 6;

/// From this width on, one filter of the bottleneck alone has over 10^12 weights.
const ABSURD_WIDTH: usize = 1 << 16;

/// The longest side of an input, in pixels.
const MOST_SIDE: usize = 16 * 1024;

impl Config {
    /// A network of base `width`, reading `neighbours` frames on each side of the middle one.
    ///
    /// # Errors
    /// [`Error::Request`] unless `width` is a positive multiple of 4 (below 65536, where no filter could be held any more), `neighbours` is 0 to 3 and
    /// `in_channels` is 1 or 3.
    pub fn new(width: usize, stem: Stem, neighbours: usize, in_channels: usize) -> Result<Config> {
        if width == 0 || !width.is_multiple_of(4) || width >= ABSURD_WIDTH {
            return Err(Error::Request(format!(
                "the width must be a positive multiple of 4 below {ABSURD_WIDTH}, not {width}"
            )));
        }
        if neighbours > 3 {
            return Err(Error::Request(format!("the network reads 0 to 3 neighbours on each side, not {neighbours}")));
        }
        if !matches!(in_channels, 1 | 3) {
            return Err(Error::Request(format!("frames have 1 or 3 channels, not {in_channels}")));
        }
        Ok(Config { width, stem, neighbours, in_channels })
    }

    /// The configuration whose parameters have these shapes, or what speaks against it.
    ///
    /// # Errors
    /// Half a sentence naming the tensor.
    pub fn from_shapes(shapes: &BTreeMap<String, Vec<usize>>) -> Result<Config, String> {
        let find = |name: &str| shapes.get(name).ok_or_else(|| format!("it holds no tensor {name}"));
        let [outputs, in_channels, frames, _, _] = find("temporal.weight")?[..] else {
            return Err("temporal.weight must have five dimensions".into());
        };
        let [width, quarter, kernel, _] = find("fuse.weight")?[..] else {
            return Err("fuse.weight must have four dimensions".into());
        };
        let stem = match kernel {
            3 => Stem::Half,
            7 => Stem::Quarter,
            other => return Err(format!("fuse.weight has a kernel of {other}, not 3 or 7")),
        };
        if outputs != quarter || frames % 2 == 0 {
            return Err("temporal.weight and fuse.weight do not fit together".into());
        }
        Config::new(width, stem, frames / 2, in_channels).map_err(|error| error.to_string())
    }

    /// Base width: channels of the first encoder.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How the input is reduced.
    pub fn stem(&self) -> Stem {
        self.stem
    }

    /// N: frames read on each side of the middle one.
    pub fn neighbours(&self) -> usize {
        self.neighbours
    }

    /// Frames of a window, 2N+1.
    pub fn frames(&self) -> usize {
        2 * self.neighbours + 1
    }

    /// Channels of a frame.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Checks that the network can work on frames of this size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is no multiple of the reduction, or the bottleneck would be under 6x6.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        let reduction = self.stem.reduction();
        let least = LEAST_BOTTLENECK * reduction;
        if !height.is_multiple_of(reduction) || !width.is_multiple_of(reduction) {
            return Err(Error::Request(format!(
                "an input of {width}x{height} does not fit: with stem {} both sides must be multiples of {reduction} \
                 of at least {least}",
                self.stem
            )));
        }
        if height < least || width < least {
            return Err(Error::Request(format!(
                "an input of {width}x{height} is too small: with stem {} both sides must be at least {least}, \
                 so that the pooling of 6x6 cells finds a bottleneck of 6x6",
                self.stem
            )));
        }
        if height > MOST_SIDE || width > MOST_SIDE {
            return Err(Error::Request(format!(
                "an input of {width}x{height} is too large: sides of up to {MOST_SIDE} pixels are possible"
            )));
        }
        Ok(())
    }

    /// The smallest input size the network works on.
    pub fn least_side(&self) -> usize {
        LEAST_BOTTLENECK * self.stem.reduction()
    }

    /// Name and shape of every parameter, in the order of the layers.
    ///
    /// # Errors
    /// None for a checked configuration.
    pub fn parameters(&self) -> Result<Vec<(String, Shape)>> {
        let side = self.least_side();
        let network = super::CeNet::build(*self, 1, side, side)?;
        Ok(network.graph.states().map(|(_, value)| (value.name.clone(), value.shape)).collect())
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { width, stem, neighbours, in_channels } = self;
        let plural = if *in_channels == 1 { "" } else { "s" };
        write!(f, "3D-2D CE-Net, width {width}, stem {stem}, N = {neighbours}, {in_channels} input channel{plural}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_configurations_are_refused() {
        assert!(Config::new(6, Stem::Half, 1, 1).is_err());
        assert!(Config::new(0, Stem::Half, 1, 1).is_err());
        assert!(Config::new(1 << 16, Stem::Half, 1, 1).is_err());
        assert!(Config::new(usize::MAX - 3, Stem::Half, 1, 1).is_err());
        assert!(Config::new(8, Stem::Half, 4, 1).is_err());
        assert!(Config::new(8, Stem::Half, 1, 2).is_err());
    }

    #[test]
    fn any_multiple_of_4_is_a_width_and_what_no_memory_holds_is_refused_by_shape() {
        for width in [4, 12, 20, 100, 1028, 2048] {
            let config = Config::new(width, Stem::Quarter, 1, 1).unwrap();
            assert!(config.parameters().unwrap().iter().all(|(_, shape)| shape.elements() > 0), "{width}");
        }
        let absurd = Config::new((1 << 16) - 4, Stem::Half, 1, 1).unwrap();
        assert!(absurd.parameters().unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn sizes_are_checked_with_a_reason() {
        let config = Config::new(8, Stem::Half, 1, 1).unwrap();
        assert!(config.check_size(448, 448).is_ok());
        assert!(config.check_size(96, 96).is_ok());
        assert!(config.check_size(100, 96).unwrap_err().to_string().contains("multiples of 16"));
        assert!(config.check_size(80, 96).unwrap_err().to_string().contains("too small"));
    }

    #[test]
    fn a_configuration_is_read_off_its_own_parameters() {
        for (width, stem, n, channels) in [(4, Stem::Half, 0, 1), (8, Stem::Quarter, 3, 3), (16, Stem::Half, 2, 1)] {
            let config = Config::new(width, stem, n, channels).unwrap();
            let shapes = config.parameters().unwrap().into_iter().map(|(name, shape)| (name, shape.dims())).collect();
            assert_eq!(Config::from_shapes(&shapes), Ok(config));
        }
    }
}
