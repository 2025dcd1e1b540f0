//! Networks: configuration, layers, parameter names. One file per network; nothing here knows a device.

mod cenet;
mod config;
mod training;

pub(crate) use cenet::BLOCKS;
pub use cenet::CeNet;
pub use config::{ARCHITECTURE, Config, Stem};
pub use training::{Objective, Optimizer, TrainingStep};
