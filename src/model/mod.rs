//! Networks: configuration, layers, parameter names. One file per network; nothing here knows a device.

mod cenet;
mod config;

pub(crate) use cenet::BLOCKS;
pub use cenet::{CeNet, TrainingStep};
pub use config::{ARCHITECTURE, Config, Stem};
