//! Imports: the tensors of another program's file under the names of this network.
//!
//! Three kinds of files are told apart by their names: Coronet's own, torchvision's ResNet-34, which becomes the
//! encoders, and CE-Net's (Gu et al. 2019, class `CE_Net_`), which has counterparts of all but the stem. Batch norm's
//! scale and shift become instance norm's; its running statistics have no use. What a file does not hold is seeded.

use super::Weights;
use super::checkpoint::{Checkpoint, Element, shown};
use crate::error::{Error, Result};
use crate::graph::{Shape, Tensor};
use crate::model::{BLOCKS, Config, Stem};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// The layer that reads frames.
const FIRST_LAYER: &str = "temporal.weight";

/// What an import is to make. What is `None` follows from the file, or is stem `half`, N = 1 and one channel.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// How the input is reduced. A CE-Net implies `quarter`.
    pub stem: Option<Stem>,
    /// Frames on each side of the middle one.
    pub neighbours: Option<usize>,
    /// Channels of a frame.
    pub in_channels: Option<usize>,
    /// Fold a first layer of three channels to one. A grey frame shown as RGB has three equal channels, and
    /// `a x + b x + c x = (a + b + c) x`: the sum of the filters computes the same from the grey frame alone, up to
    /// rounding. For frames in colour the outcome is another one.
    pub luminance: bool,
    /// Seed of what the file does not hold.
    pub seed: u64,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions { stem: None, neighbours: None, in_channels: None, luminance: false, seed: 1 }
    }
}

/// The network a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A 3D-2D CE-Net under Coronet's own names.
    Coronet,
    /// torchvision's ResNet-34.
    ResNet34,
    /// The two-dimensional CE-Net.
    CeNet,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Coronet => "a 3D-2D CE-Net",
            Source::ResNet34 => "torchvision's ResNet-34",
            Source::CeNet => "CE-Net",
        })
    }
}

/// Tensors of a file that were not needed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// What they are and why they were not needed.
    pub reason: &'static str,
    /// Their names.
    pub tensors: Vec<String>,
}

/// Weights out of another program's file, and how they came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// The weights, complete.
    pub weights: Weights,
    /// The network they come from.
    pub source: Source,
    /// How many tensors the file holds.
    pub held: usize,
    /// How many of them were taken.
    pub taken: usize,
    /// The others.
    pub left_out: Vec<LeftOut>,
    /// Layers that the file does not hold, in the order of the network; their weights are seeded.
    pub seeded: Vec<String>,
}

/// Makes weights from a file of named tensors: safetensors, or a PyTorch checkpoint of either format.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Weights`] when it is damaged, asks for anything but tensors, holds
/// another network, lacks a tensor or has one too many, of another shape or type or not finite, or does not go with the
/// options.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Import> {
    let mut file = Checkpoint::open(path)?;
    let import = Plan::new(&file, options).and_then(|plan| plan.carry_out(&mut file, options));
    import.map_err(|problem| Error::weights(path, problem))
}

/// What is to become of each tensor: made from names and shapes alone, before a number is read.
struct Plan {
    source: Source,
    config: Config,
    /// Our name, the file's, and the shape in the file.
    taken: Vec<(String, String, Shape)>,
    left_out: Vec<LeftOut>,
    /// Names of ours that the file has no counterpart of.
    seeded: Vec<String>,
}

impl Plan {
    fn new(file: &Checkpoint, options: &ImportOptions) -> Result<Plan, String> {
        let source = Source::of(file)?;
        source.check_blocks(file)?;
        let in_file = source.config(file, options)?;
        let config = target(source, in_file, options)?;
        let (mut taken, mut seeded) = (Vec::new(), Vec::new());
        for (ours, shape) in in_file.parameters().map_err(|error| error.to_string())? {
            match source.name_of(&ours, in_file.stem()) {
                Some(theirs) => {
                    check_tensor(file, &theirs, shape, source)?;
                    taken.push((ours, theirs, shape));
                }
                None => seeded.push(ours),
            }
        }
        let left_out = left_out(file, source, in_file, &taken)?;
        Ok(Plan { source, config, taken, left_out, seeded })
    }

    fn carry_out(self, file: &mut Checkpoint, options: &ImportOptions) -> Result<Import, String> {
        let Plan { source, config, taken, left_out, seeded } = self;
        let mut tensors = BTreeMap::new();
        if !seeded.is_empty() {
            tensors = Weights::seeded(config, options.seed).map_err(|error| error.to_string())?.tensors;
        }
        let (held, count) = (file.tensors().len(), taken.len());
        for (ours, theirs, shape) in taken {
            let numbers = file.read(&theirs)?;
            let tensor = Tensor::new(shape, numbers).ok_or_else(|| format!("tensor {theirs} is cut short"))?;
            let tensor = if options.luminance && ours == FIRST_LAYER { to_luminance(&tensor)? } else { tensor };
            tensors.insert(ours, tensor);
        }
        let mut layers: Vec<String> = seeded.iter().map(|name| layer(name).to_owned()).collect();
        layers.dedup();
        let weights = Weights { config, tensors };
        Ok(Import { weights, source, held, taken: count, left_out, seeded: layers })
    }
}

impl Source {
    /// The network whose names the file has.
    fn of(file: &Checkpoint) -> Result<Source, String> {
        let names = file.tensors();
        // Each has layers that the others lack.
        let telling = [("temporal", Source::Coronet), ("dblock", Source::CeNet), ("layer1", Source::ResNet34)];
        if let Some((_, source)) = telling.iter().find(|(first, _)| names.keys().any(|name| layer(name) == *first)) {
            return Ok(*source);
        }
        let found =
            names.keys().next().map_or("no tensor at all".to_owned(), |name| format!("\"{}\" for one", shown(name)));
        Err(format!("holds no network Coronet can import: no 3D-2D CE-Net, CE-Net or ResNet-34, but {found}"))
    }

    /// What the encoders are called, in front of their number.
    fn encoder(self) -> &'static str {
        if self == Source::ResNet34 { "layer" } else { "encoder" }
    }

    /// The file's name for a parameter of ours, if it has a counterpart.
    fn name_of(self, ours: &str, stem: Stem) -> Option<String> {
        let (part, rest) = ours.split_once('.')?;
        let encoder = part.strip_prefix("encoder").map(|number| {
            // norm1, norm2 of a block; a projection's norm is called by its number in all three.
            format!("{}{number}.{}", self.encoder(), rest.replace("norm", "bn"))
        });
        match (self, part) {
            (Source::Coronet, _) => Some(ours.to_owned()),
            (Source::ResNet34, _) => encoder,
            (Source::CeNet, "dac") => Some(format!("dblock.{rest}")),
            (Source::CeNet, "rmp") => Some(format!("spp.{rest}")),
            (Source::CeNet, "head") if stem == Stem::Quarter => {
                Some(format!("final{}", rest.replace("conv1", "deconv1")))
            }
            (Source::CeNet, _) if part.starts_with("decoder") => Some(ours.to_owned()),
            (Source::CeNet, _) => encoder,
        }
    }

    /// Why a tensor of the file is not needed, or `None` when such a network does not have it.
    fn reason_to_leave(self, name: &str, stem: Stem) -> Option<&'static str> {
        let statistic = ["running_mean", "running_var", "num_batches_tracked"];
        match (self, layer(name)) {
            (Source::Coronet, _) => None,
            _ if statistic.contains(&name.rsplit('.').next()?) => {
                Some("running statistics, which instance norm does not use")
            }
            (Source::ResNet34, "conv1" | "bn1") | (Source::CeNet, "firstconv" | "firstbn") => {
                Some("its first layer, which the 3D-2D stem replaces")
            }
            (Source::ResNet34, "fc") => Some("its classifier"),
            (Source::CeNet, "finaldeconv1" | "finalconv2" | "finalconv3") if stem == Stem::Half => {
                Some("its last layers, which fit stem quarter only")
            }
            _ => None,
        }
    }

    /// The network that the file's tensors are taken for.
    fn config(self, file: &Checkpoint, options: &ImportOptions) -> Result<Config, String> {
        if self == Source::Coronet {
            let shapes = file.tensors().iter().map(|(name, layout)| (name.clone(), layout.dims().to_vec())).collect();
            return Config::from_shapes(&shapes)
                .map_err(|problem| format!("does not hold the weights of a 3D-2D CE-Net: {problem}"));
        }
        let first = format!("{}1.0.conv1.weight", self.encoder());
        let first = file.tensors().get(&first).ok_or_else(|| missing(&first, self))?;
        let width = first.dims().first().copied().unwrap_or(0);
        let implied = if self == Source::CeNet { Stem::Quarter } else { Stem::Half };
        let (n, channels) = (options.neighbours.unwrap_or(1), options.in_channels.unwrap_or(1));
        Config::new(width, options.stem.unwrap_or(implied), n, channels).map_err(|error| error.to_string())
    }

    /// Refuses the other ResNets, whose layers have the same names, by theirs.
    fn check_blocks(self, file: &Checkpoint) -> Result<(), String> {
        if self == Source::Coronet {
            return Ok(());
        }
        let blocks = [1, 2, 3, 4].map(|number| {
            let prefix = format!("{}{number}.", self.encoder());
            let inside = file.tensors().keys().filter_map(|name| name.strip_prefix(&prefix)?.split('.').next());
            inside.collect::<BTreeSet<_>>().len()
        });
        let bottlenecks = file.tensors().contains_key(&format!("{}1.0.conv3.weight", self.encoder()));
        if !bottlenecks && blocks == BLOCKS {
            return Ok(());
        }
        let known = match (bottlenecks, blocks) {
            (false, [2, 2, 2, 2]) => " (ResNet-18)",
            (true, [3, 4, 6, 3]) => " (ResNet-50)",
            (true, [3, 4, 23, 3]) => " (ResNet-101)",
            (true, [3, 8, 36, 3]) => " (ResNet-152)",
            _ => "",
        };
        let kind = if bottlenecks { "bottleneck" } else { "basic" };
        let listed = |blocks: [usize; 4]| blocks.map(|count| count.to_string()).join(", ");
        let (found, needed) = (listed(blocks), listed(BLOCKS));
        Err(format!(
            "holds a ResNet of {found} {kind} blocks{known}; the encoders are those of ResNet-34, {needed} basic blocks"
        ))
    }
}

/// The network to make from one in the file, or why the options do not go with it.
fn target(source: Source, in_file: Config, options: &ImportOptions) -> Result<Config, String> {
    if source != Source::Coronet {
        return match options.luminance {
            true => Err(format!("has no first layer to fold to luminance: that of {source} is left out")),
            false => Ok(in_file),
        };
    }
    let channels = match (options.luminance, in_file.in_channels()) {
        (true, 1) => return Err("has a first layer of one channel, so there is nothing to fold to luminance".into()),
        (true, _) => 1,
        (false, channels) => channels,
    };
    let wanted = Config::new(
        in_file.width(),
        options.stem.unwrap_or(in_file.stem()),
        options.neighbours.unwrap_or(in_file.neighbours()),
        options.in_channels.unwrap_or(channels),
    );
    let wanted = wanted.map_err(|error| error.to_string())?;
    let made = Config::new(in_file.width(), in_file.stem(), in_file.neighbours(), channels);
    let made = made.map_err(|error| error.to_string())?;
    if made != wanted {
        return Err(format!("gives a {made}, not the {wanted} asked for"));
    }
    Ok(made)
}

fn missing(name: &str, source: Source) -> String {
    format!("holds no tensor {name}, which {source} has")
}

fn check_tensor(file: &Checkpoint, name: &str, shape: Shape, source: Source) -> Result<(), String> {
    let layout = file.tensors().get(name).ok_or_else(|| missing(name, source))?;
    if let Element::Other { name: element, .. } = layout.element() {
        return Err(format!("tensor {name} is {element}, not floating-point"));
    }
    if layout.dims() != shape.dims() {
        return Err(format!("tensor {name} has the shape {:?}, not {:?}", layout.dims(), shape.dims()));
    }
    Ok(())
}

/// The file's other tensors by reason; one without a reason is refused.
fn left_out(
    file: &Checkpoint,
    source: Source,
    config: Config,
    taken: &[(String, String, Shape)],
) -> Result<Vec<LeftOut>, String> {
    let taken: BTreeSet<&str> = taken.iter().map(|(_, theirs, _)| theirs.as_str()).collect();
    let mut groups: Vec<LeftOut> = Vec::new();
    for name in file.tensors().keys().filter(|name| !taken.contains(name.as_str())) {
        let reason = source.reason_to_leave(name, config.stem());
        let unknown = || format!("holds a tensor \"{}\", which {source} does not have", shown(name));
        let reason = reason.ok_or_else(unknown)?;
        match groups.iter_mut().find(|group| group.reason == reason) {
            Some(group) => group.tensors.push(name.clone()),
            None => groups.push(LeftOut { reason, tensors: vec![name.clone()] }),
        }
    }
    Ok(groups)
}

/// The layer a parameter belongs to: the first word of its name.
fn layer(name: &str) -> &str {
    name.split_once('.').map_or(name, |(layer, _)| layer)
}

/// A first layer with its channels' filters added up, see [`ImportOptions::luminance`].
fn to_luminance(filter: &Tensor) -> Result<Tensor, String> {
    let Shape::TemporalFilter { outputs, channels, frames, height, width } = filter.shape() else {
        return Err(format!("tensor {FIRST_LAYER} is no filter of frames"));
    };
    let taps = frames * height * width;
    let shape = Shape::TemporalFilter { outputs, channels: 1, frames, height, width };
    let folded = Tensor::from_fn(shape, |at| {
        let (output, tap) = (at / taps, at % taps);
        let channel = |channel| f64::from(filter.data()[(output * channels + channel) * taps + tap]);
        (0..channels).map(channel).sum::<f64>() as f32
    });
    match folded.data().iter().all(|number| number.is_finite()) {
        true => Ok(folded),
        false => Err(format!("tensor {FIRST_LAYER} holds numbers whose sum over the channels is no finite float32")),
    }
}
