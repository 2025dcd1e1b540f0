//! What a run is told at its beginning, and keeps to.

use super::run_folder::{file, read_json};
use super::{RunFolder, Settings, SplitList};
use crate::dataset::{Dataset, Split};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::model::{Config, Stem};
use crate::weights::Weights;
use crate::weights::import::{ImportOptions, Source, import};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The value of `schema` in [`file::CONFIGURATION`], by which a folder is known as a run's.
pub(super) const SCHEMA: &str = "coronet/train";
const SCHEMA_VERSION: u32 = 1;

/// What [`file::CONFIGURATION`] holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    schema: String,
    schema_version: u32,
    /// The version that began the run.
    pub coronet: String,
    /// The commit it was built from, where the build knew it; `-dirty` when there were changes beyond it.
    pub commit: Option<String>,
    /// The data set's folder.
    pub data: PathBuf,
    /// Where the first weights came from.
    pub start: Start,
    /// The network.
    pub network: serde_json::Value,
    /// What convolutions multiply.
    pub precision: Precision,
    /// What decides the outcome.
    pub settings: Settings,
}

impl Configuration {
    /// The configuration of a run that this program begins.
    ///
    /// # Errors
    /// [`Error::Request`] when a path, seen from any folder, is no UTF-8 and so cannot stand in JSON.
    pub fn new(
        data: &Path,
        start: Start,
        network: Config,
        precision: Precision,
        settings: Settings,
    ) -> Result<Configuration> {
        Ok(Configuration {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            coronet: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::COMMIT.map(str::to_owned),
            data: absolute(data)?,
            start: start.with(absolute)?,
            network: serde_json::json!(network),
            precision,
            settings,
        })
    }

    /// Writes it and the split into a new run's folder, which holds a run from then on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&self, folder: &RunFolder, dataset: &Dataset, split: &Split) -> Result<()> {
        folder.write_json(file::SPLIT, &SplitList::of(dataset, split))?;
        folder.write_json(file::CONFIGURATION, self)
    }

    /// The configuration of the run in `folder`.
    ///
    /// # Errors
    /// [`Error::Request`] when there is no run, or it is damaged or of another version; [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Configuration> {
        let path = folder.join(file::CONFIGURATION);
        if !path.is_file() {
            let (place, name) = (folder.display(), file::CONFIGURATION);
            return Err(Error::Request(format!("{place} holds no run: it has no {name}")));
        }
        let configuration: Configuration = read_json(&path)?;
        if (configuration.schema.as_str(), configuration.schema_version) != (SCHEMA, SCHEMA_VERSION) {
            return Err(Error::Request(format!("{} is of another version of Coronet", path.display())));
        }
        Ok(configuration)
    }

    /// The weights to start from. Of those that a run goes on from nothing is left but the network: what they came from may be
    /// gone.
    ///
    /// # Errors
    /// As [`Start::weights`]; [`Error::Request`] when the configuration is damaged.
    pub fn weights(&self, run: Option<&RunFolder>) -> Result<Weights> {
        #[derive(Deserialize)]
        struct Network {
            width: usize,
            stem: Stem,
            neighbours: usize,
            in_channels: usize,
        }
        let Some(run) = run.filter(|run| run.file(file::CHECKPOINT).exists()) else {
            return self.start.weights(self.settings.seed);
        };
        let damaged = |what| Error::Request(format!("{} is damaged: {what}", run.file(file::CONFIGURATION).display()));
        let network = serde_json::from_value(self.network.clone()).map_err(|error| damaged(error.to_string()))?;
        let Network { width, stem, neighbours, in_channels } = network;
        let config = Config::new(width, stem, neighbours, in_channels).map_err(|error| damaged(error.to_string()))?;
        Weights::seeded(config, self.settings.seed)
    }

    /// The split that the run in `folder` began with, of the same frames.
    ///
    /// # Errors
    /// [`Error::Request`] when `dataset` does not hold these frames any more; [`Error::Io`].
    pub fn split(&self, folder: &Path, dataset: &Dataset) -> Result<Split> {
        let path = folder.join(file::SPLIT);
        let listed: SplitList = read_json(&path)?;
        let split = Split::new(dataset, self.settings.split, self.settings.seed)?;
        if !SplitList::of(dataset, &split).agrees_with(&listed) {
            return Err(Error::Request(format!(
                "{} does not hold the frames any more that the run began with, see {}",
                dataset.folder().display(),
                path.display()
            )));
        }
        Ok(split)
    }
}

/// The first weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Start {
    /// Random ones.
    Seeded {
        /// Base width.
        width: usize,
        /// How the input is reduced.
        stem: Stem,
        /// N.
        neighbours: usize,
        /// Channels of a frame.
        in_channels: usize,
    },
    /// Random ones around another network's encoders.
    Encoder {
        /// torchvision's ResNet-34.
        file: PathBuf,
        /// How the input is reduced.
        stem: Stem,
        /// N.
        neighbours: usize,
        /// Channels of a frame.
        in_channels: usize,
    },
    /// A file's.
    Weights {
        /// Weights of this network.
        file: PathBuf,
    },
}

/// As from any folder.
fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(Error::Request(format!(
            "the path {} is no UTF-8, which {} has to be; choose another",
            path.display(),
            file::CONFIGURATION
        ))),
    }
}

impl Start {
    /// The same with another path to its file.
    fn with(self, path: impl Fn(&Path) -> Result<PathBuf>) -> Result<Start> {
        Ok(match self {
            Start::Seeded { .. } => self,
            Start::Encoder { file, stem, neighbours, in_channels } => {
                Start::Encoder { file: path(&file)?, stem, neighbours, in_channels }
            }
            Start::Weights { file } => Start::Weights { file: path(&file)? },
        })
    }

    /// These weights; the random ones among them from `seed`.
    ///
    /// # Errors
    /// [`Error::Request`] when there is no such network, or the file holds another one; those of reading it.
    pub fn weights(&self, seed: u64) -> Result<Weights> {
        match self {
            &Start::Seeded { width, stem, neighbours, in_channels } => {
                Weights::seeded(Config::new(width, stem, neighbours, in_channels)?, seed)
            }
            Start::Encoder { file, stem, neighbours, in_channels } => {
                let (stem, neighbours, in_channels) = (Some(*stem), Some(*neighbours), Some(*in_channels));
                let options = ImportOptions { stem, neighbours, in_channels, luminance: false, seed };
                let import = import(file, &options)?;
                if import.source != Source::ResNet34 {
                    let place = file.display();
                    return Err(Error::Request(format!(
                        "{place} holds {}, not torchvision's ResNet-34; make weights of it with `coronet import` and give them as --init",
                        import.source
                    )));
                }
                Ok(import.weights)
            }
            Start::Weights { file } => Weights::load(file),
        }
    }
}
