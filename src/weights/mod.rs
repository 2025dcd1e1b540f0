//! Weights files: safetensors with the network's configuration in the header.
//!
//! Files without the header work too: the configuration is then read off the shapes. Nothing is used before every
//! tensor has been checked: name, shape, type, and that all numbers are finite.

pub mod checkpoint;
mod embedded;
pub mod import;

pub use embedded::EMBEDDED_ORIGIN;

use crate::error::{Error, Result};
use crate::graph::{Shape, Tensor, ValueId};
use crate::model::{ARCHITECTURE, CeNet, Config, Stem};
use crate::new_file::NewFile;
use crate::random::Random;
use checkpoint::shown;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Keys of the configuration in a header.
mod key {
    pub const ARCHITECTURE: &str = "coronet.architecture";
    pub const WIDTH: &str = "coronet.width";
    pub const STEM: &str = "coronet.stem";
    pub const NEIGHBOURS: &str = "coronet.neighbours";
    pub const IN_CHANNELS: &str = "coronet.in_channels";
}

/// A network's parameters with its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    config: Config,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads and checks a weights file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Weights`] when it is no safetensors file, holds the weights of
    /// another network, or a tensor is missing, unknown, of another shape or type, or not finite.
    pub fn load(path: &Path) -> Result<Weights> {
        let bytes = std::fs::read(path).map_err(Error::io("read weights", path))?;
        Weights::parse(&bytes).map_err(|problem| Error::weights(path, problem))
    }

    /// As [`Weights::load`], from memory.
    ///
    /// # Errors
    /// What is wrong, as half a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Weights, String> {
        let no_file = |error: SafeTensorError| {
            format!("is not a safetensors file, or a damaged one ({})", shown(&error.to_string()))
        };
        let file = SafeTensors::deserialize(bytes).map_err(no_file)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(no_file)?;
        let shapes = file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
        // A header that names another network says more than the first tensor that is missing.
        let stated = stated_config(header.metadata().as_ref())?;
        let from_shapes = Config::from_shapes(&shapes)
            .map_err(|problem| format!("does not hold the weights of a 3D-2D CE-Net: {problem}"))?;
        if let Some(stated) = stated
            && stated != from_shapes
        {
            return Err(format!("the header says {stated}, but the tensors are those of {from_shapes}"));
        }
        let mut tensors = BTreeMap::new();
        for (name, shape) in from_shapes.parameters().map_err(|error| error.to_string())? {
            let view = file.tensor(&name).map_err(|_| format!("holds no tensor {name}, which {from_shapes} needs"))?;
            let tensor = tensor(&name, shape, &view)?;
            tensors.insert(name, tensor);
        }
        if let Some(unknown) = shapes.keys().find(|name| !tensors.contains_key(*name)) {
            return Err(format!("holds a tensor {}, which {from_shapes} does not have", shown(unknown)));
        }
        Ok(Weights { config: from_shapes, tensors })
    }

    /// Random weights: filters Kaiming-normal, biases 0, norms 1 and 0; the same for the same seed.
    ///
    /// # Errors
    /// None for a checked configuration.
    pub fn seeded(config: Config, seed: u64) -> Result<Weights> {
        let mut random = Random::new(seed);
        let tensors = config.parameters()?.into_iter().map(|(name, shape)| {
            let fan_in: usize = shape.dims().iter().skip(1).product();
            let deviation = (2.0 / fan_in as f64).sqrt();
            let tensor = match shape {
                Shape::Channels { .. } => Tensor::filled(
                    shape,
                    if name.contains("norm") && name.ends_with("weight") || name.ends_with("downsample.1.weight") {
                        1.0
                    } else {
                        0.0
                    },
                ),
                _ => Tensor::from_fn(shape, |_| (deviation * random.normal()) as f32),
            };
            (name, tensor)
        });
        Ok(Weights { config, tensors: tensors.collect() })
    }

    /// Writes the file, configuration in the header: to a temporary name beside it, synced, then renamed.
    ///
    /// # Errors
    /// [`Error::Io`]; the old file, if any, is then still there.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.save_as(NewFile::create(path)?)
    }

    /// As [`Weights::save`], into a file whose place has been found good already.
    ///
    /// # Errors
    /// As [`Weights::save`].
    pub fn save_as(&self, file: NewFile) -> Result<()> {
        let bytes = self.serialise().map_err(|problem| Error::weights(file.path(), problem))?;
        file.complete(&bytes)
    }

    /// The file's bytes.
    fn serialise(&self) -> Result<Vec<u8>, String> {
        let config = &self.config;
        let header: HashMap<String, String> = [
            (key::ARCHITECTURE, ARCHITECTURE.to_owned()),
            (key::WIDTH, config.width().to_string()),
            (key::STEM, config.stem().to_string()),
            (key::NEIGHBOURS, config.neighbours().to_string()),
            (key::IN_CHANNELS, config.in_channels().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| {
                let bytes = bytemuck::cast_slice(tensor.data());
                TensorView::new(Dtype::F32, tensor.shape().dims(), bytes).map(|view| (name.as_str(), view))
            })
            .collect::<Result<_, _>>()
            .map_err(|error| format!("cannot be written ({error})"))?;
        safetensors::serialize(views, Some(header)).map_err(|error| format!("cannot be written ({error})"))
    }

    /// The network they belong to.
    pub fn config(&self) -> Config {
        self.config
    }

    /// A parameter by name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All parameters by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Hands every parameter of a network to `write`, which puts it where the network will run.
    ///
    /// # Errors
    /// [`Error::Request`] when the network has another configuration, and whatever `write` reports.
    pub fn write_into(&self, network: &CeNet, mut write: impl FnMut(ValueId, &[f32]) -> Result<()>) -> Result<()> {
        for (name, id) in &network.parameters {
            let other = || Error::Request(format!("weights of a {} do not fit a {}", self.config, network.config));
            let tensor = self.tensors.get(name).filter(|tensor| tensor.shape() == network.graph.shape(*id));
            write(*id, tensor.ok_or_else(other)?.data())?;
        }
        Ok(())
    }

    /// Takes every parameter of a network from `read`, which fetches it from where the network ran.
    ///
    /// # Errors
    /// [`Error::Network`] when a number is not finite, and whatever `read` reports.
    pub fn read_from(network: &CeNet, mut read: impl FnMut(ValueId) -> Result<Tensor>) -> Result<Weights> {
        let mut tensors = BTreeMap::new();
        for (name, id) in &network.parameters {
            let tensor = read(*id)?;
            if let Some(at) = tensor.data().iter().position(|value| !value.is_finite()) {
                let value = tensor.data()[at];
                return Err(Error::Network(format!("parameter {name} holds {value} at position {at}")));
            }
            tensors.insert(name.clone(), tensor);
        }
        Ok(Weights { config: network.config, tensors })
    }

    /// How many numbers there are.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.shape().elements()).sum()
    }
}

/// The configuration a header states, if it states one.
fn stated_config(header: Option<&HashMap<String, String>>) -> Result<Option<Config>, String> {
    let Some(header) = header.filter(|header| header.contains_key(key::ARCHITECTURE)) else { return Ok(None) };
    let find = |key: &str| header.get(key).ok_or_else(|| format!("the header lacks {key}"));
    let number = |key: &str| find(key)?.parse::<usize>().map_err(|_| format!("the header's {key} is no whole number"));
    let architecture = find(key::ARCHITECTURE)?;
    if architecture != ARCHITECTURE {
        let architecture = shown(architecture);
        return Err(format!("holds the weights of another network ({architecture}, not {ARCHITECTURE})"));
    }
    let stem = find(key::STEM)?.parse::<Stem>().map_err(|problem| shown(&problem))?;
    Config::new(number(key::WIDTH)?, stem, number(key::NEIGHBOURS)?, number(key::IN_CHANNELS)?)
        .map(Some)
        .map_err(|error| error.to_string())
}

fn tensor(name: &str, shape: Shape, view: &TensorView<'_>) -> Result<Tensor, String> {
    if view.shape() != shape.dims() {
        let found = shown(&format!("{:?}", view.shape()));
        return Err(format!("tensor {name} has the shape {found}, not {:?}", shape.dims()));
    }
    if view.dtype() != Dtype::F32 {
        return Err(format!("tensor {name} is {:?}; only F32 can be read", view.dtype()));
    }
    let numbers = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let tensor = Tensor::new(shape, numbers).ok_or_else(|| format!("tensor {name} is cut short"))?;
    match tensor.data().iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!("tensor {name} holds {} at position {at}", tensor.data()[at])),
        None => Ok(tensor),
    }
}
