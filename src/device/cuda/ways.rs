//! Ways to cut a convolution on tensor cores into blocks, and the table of those that were measured to be the best.
//!
//! `CudaDevice::tune` makes such a table for one GPU; with it a device takes its ways where it would go by a rule
//! otherwise. A table can do no harm: a way that is not possible for its convolution is not taken. As a file it is JSON.

use super::ops::patch_conv::{MOST_SHARES, ROWS, WIDTHS_LOG2};
use super::ops::{self, Direction, Tile};
use super::{CudaDevice, Precision};
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::new_file::NewFile;
use crate::program::Step;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How a convolution on tensor cores is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Way {
    /// Into tiles, each pixel read once for each tap.
    Tile(Tile),
    /// Into patches, each pixel read once for all taps.
    Patches {
        /// The width of a patch, as an exponent of two; it has 128 pixels.
        width_log2: u32,
        /// Blocks that share the channels of a patch.
        shares: usize,
    },
    /// Into patches that tensor cores read by themselves.
    Warpgroups {
        /// Blocks that share the channels of a patch.
        shares: usize,
    },
}

impl Way {
    /// All there are, for whatever convolution.
    pub fn all() -> Vec<Way> {
        let shares = 1..=MOST_SHARES;
        let patches =
            WIDTHS_LOG2.flat_map(|width_log2| shares.clone().map(move |shares| Way::Patches { width_log2, shares }));
        let warpgroups = shares.clone().map(|shares| Way::Warpgroups { shares });
        Tile::ALL.into_iter().map(Way::Tile).chain(patches).chain(warpgroups).collect()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Way::Tile(tile) => format!("tile {tile}"),
            Way::Patches { width_log2, shares } => {
                format!("patches {}x{} shares {shares}", 1 << width_log2, ROWS >> width_log2)
            }
            Way::Warpgroups { shares } => format!("warpgroups shares {shares}"),
        };
        f.pad(&text)
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Way, String> {
        let found = Way::all().into_iter().find(|way| way.to_string() == text);
        found.ok_or_else(|| {
            format!("a way is such as `tile 64x32`, `patches 16x8 shares 2` or `warpgroups shares 1`, not {text}")
        })
    }
}

impl TryFrom<String> for Way {
    type Error = String;

    fn try_from(text: String) -> Result<Way, String> {
        text.parse()
    }
}

impl From<Way> for String {
    fn from(way: Way) -> String {
        way.to_string()
    }
}

/// What the best way of a convolution depends on, but for the device: all that its kernels are told of sizes, what they
/// multiply, and what is done to the result as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    direction: Direction,
    precision: Precision,
    batch: usize,
    /// Channels, height and width of the maps that are read and of those that are made.
    source: [usize; 3],
    result: [usize; 3],
    /// Height and width.
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    dilation: usize,
    norm: bool,
    residual: bool,
    relu: bool,
    sigmoid: bool,
    statistics: bool,
}

impl Key {
    /// Of a step whose products are of a precision; `None` where there is nothing to choose.
    pub(super) fn of(step: &Step, inputs: &[Shape], result: Shape, precision: Precision) -> Option<Key> {
        let (direction, conv) = ops::convolution(&step.op).filter(|_| precision != Precision::Float32)?;
        let sides = |shape: Shape| match shape {
            Shape::Maps { batch, channels, height, width } => Some((batch, [channels, height, width])),
            _ => None,
        };
        let ((batch, source), (_, result), kernel) = (sides(inputs[0])?, sides(result)?, ops::kernel_of(inputs[1]));
        Some(Key {
            direction,
            precision,
            batch,
            source,
            result,
            kernel: [kernel.0, kernel.1],
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
            norm: step.epilogue.norm.is_some(),
            residual: step.epilogue.residual.is_some(),
            relu: step.epilogue.relu,
            sigmoid: step.epilogue.sigmoid,
            statistics: step.epilogue.statistics.is_some(),
        })
    }
}

/// For people: `3x3 of 64x112x112 to 64x112x112 float16 norm relu`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |sides: &[usize]| sides.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let mut words = vec![format!("{} of {}", size(&self.kernel), size(&self.source))];
        words.push(format!("to {} {}", size(&self.result), self.precision));
        let is_other = [
            (self.batch != 1, format!("batch {}", self.batch)),
            (self.direction == Direction::Backward, "backward".to_owned()),
            (self.stride != 1, format!("stride {}", self.stride)),
            (self.dilation != 1, format!("dilation {}", self.dilation)),
        ];
        words.extend(is_other.into_iter().filter_map(|(is_said, word)| is_said.then_some(word)));
        let folded = [
            (self.norm, "norm"),
            (self.residual, "residual"),
            (self.relu, "relu"),
            (self.sigmoid, "sigmoid"),
            (self.statistics, "statistics"),
        ];
        words.extend(folded.into_iter().filter_map(|(is_said, word)| is_said.then_some(word.to_owned())));
        f.pad(&words.join(" "))
    }
}

/// A way and the time that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The way.
    pub way: Way,
    /// Microseconds of one such convolution.
    pub microseconds: f64,
}

impl Measured {
    pub(super) fn new(way: Way, time: Duration) -> Measured {
        Measured { way, microseconds: time.as_secs_f64() * 1e6 }
    }
}

/// What is known of a convolution: a way that is better than the rule's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Entry {
    key: Key,
    best: Measured,
    rule: Measured,
}

/// The GPU that a table is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    name: String,
    architecture: u32,
    /// Parts of a GPU have its name.
    multiprocessors: usize,
}

impl Of {
    fn device(device: &CudaDevice) -> Of {
        let driver = &device.driver;
        Of { name: driver.name(), architecture: driver.architecture(), multiprocessors: driver.multiprocessors() }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, sm_{}, {} multiprocessors", self.name, self.architecture, self.multiprocessors)
    }
}

/// The name of the file's layout, and its version: raised when a field changes its meaning or goes away.
const SCHEMA: &str = "coronet/tuning";
const SCHEMA_VERSION: u32 = 1;

/// The best ways of one GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ways {
    schema: String,
    schema_version: u32,
    device: Of,
    /// The version that measured last, for people.
    coronet: String,
    /// Of what kernels they are.
    kernels: String,
    entries: Vec<Entry>,
    /// Where they were read from.
    #[serde(skip)]
    file: Option<PathBuf>,
}

/// Of the kernels of this build, and of what has compiled them for GPUs.
fn kernels_of_this_build() -> String {
    let compiler = option_env!("CORONET_KERNELS_BY").map_or(String::new(), |version| format!(" CUDA {version}"));
    format!("{}{compiler}", env!("CORONET_KERNELS"))
}

impl Ways {
    /// None yet, of a device and the kernels of this build.
    pub fn none_of(device: &CudaDevice) -> Ways {
        Ways {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            device: Of::device(device),
            coronet: env!("CARGO_PKG_VERSION").to_owned(),
            kernels: kernels_of_this_build(),
            entries: Vec::new(),
            file: None,
        }
    }

    /// Reads a file that [`Ways::write`] has written.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Request`] when it is damaged or something else.
    pub fn read(file: &Path) -> Result<Ways> {
        let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
        let wrong = |problem: String| Error::Request(format!("{}: {problem}", file.display()));
        let document: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is no table of ways ({error})")))?;
        if document["schema"] != SCHEMA || document["schema_version"] != SCHEMA_VERSION {
            let problem = format!("is no {SCHEMA} document of version {SCHEMA_VERSION}; `coronet tune` writes one");
            return Err(wrong(problem));
        }
        let ways: Ways =
            serde_json::from_value(document).map_err(|error| wrong(format!("is a damaged table of ways ({error})")))?;
        Ok(Ways { file: Some(file.to_path_buf()), ..ways })
    }

    /// Writes them, as measured by this version, as a file that is there complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`]; an older file of that name is then still there.
    pub fn write(&self, file: NewFile) -> Result<()> {
        let by_this_version = Ways { coronet: env!("CARGO_PKG_VERSION").to_owned(), ..self.clone() };
        let text = serde_json::to_string_pretty(&by_this_version);
        let text = text.map_err(|error| Error::Internal(format!("the table of ways is not JSON: {error}")))?;
        file.complete(format!("{text}\n").as_bytes())
    }

    /// The file that they were read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An error unless they are of this GPU, or of one like it.
    ///
    /// # Errors
    /// [`Error::Request`], which names both.
    pub fn check_device(&self, device: &CudaDevice) -> Result<()> {
        let here = Of::device(device);
        if self.device == here {
            return Ok(());
        }
        let file = self.file.as_deref().map_or(String::new(), |file| format!("{}: ", file.display()));
        Err(Error::Request(format!("{file}is a table of ways of {}, not of {here}", self.device)))
    }

    /// Whether they were measured of the kernels of this build. Those of others say nothing about it.
    pub fn are_of_this_build(&self) -> bool {
        self.kernels == kernels_of_this_build()
    }

    /// The way of a convolution.
    pub fn get(&self, key: &Key) -> Option<Way> {
        self.entries.iter().find(|entry| entry.key == *key).map(|entry| entry.best.way)
    }

    /// Has `best` for a convolution from now on, in place of what a device does by itself.
    pub fn set(&mut self, key: Key, best: Measured, rule: Measured) {
        self.remove(&key);
        self.entries.push(Entry { key, best, rule });
    }

    /// Leaves a convolution to the rule.
    pub fn remove(&mut self, key: &Key) {
        self.entries.retain(|entry| entry.key != *key);
    }
}

/// The name of a table's file where tables of several GPUs lie: `nvidia-h100-80gb-hbm3-sm_90.json`.
pub fn file_name(device: &CudaDevice) -> String {
    let name = device.driver.name().to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    format!("{}-sm_{}.json", words.collect::<Vec<_>>().join("-"), device.driver.architecture())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_read_as_they_are_written() {
        for way in Way::all() {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        let said = Way::all().iter().map(Way::to_string).collect::<Vec<_>>();
        for way in ["tile 128x64", "patches 8x16 shares 1", "patches 128x1 shares 4", "warpgroups shares 3"] {
            assert!(said.contains(&way.to_owned()), "{said:?}");
        }
        for wrong in ["", "tile 64", "patches 4x32 shares 1", "patches 16x8 shares 5", "warpgroups"] {
            assert!(wrong.parse::<Way>().unwrap_err().ends_with(&format!("not {wrong}")));
        }
    }
}
