//! Coronet segments coronary arteries in angiographic video.
//!
//! 2N+1 consecutive X-ray frames go in, the vessel mask of the middle frame comes out: the 3D-2D CE-Net of
//! Wang, Liang et al., BMC Med Imaging 20:110 (2020), on a compute engine written for it.
//!
//! ```text
//! clip --> media --> segment --> Program on a device --> post --> masks, overlay, summary
//!
//! model    builds a Graph: what to compute, nothing about how
//! graph    values and operators with static shapes; differentiate() adds the nodes of a gradient
//! program  lowers a Graph for one device: drops, fuses, plans one memory arena
//! device   runs a Program
//! ops      all that is true of each operator: shapes, FLOPs, gradient, float64 reference, verification cases
//! ```
//!
//! One frame through a small network with random weights:
//!
//! ```
//! use coronet::device::Device;
//! use coronet::device::cpu::CpuDevice;
//! use coronet::model::{CeNet, Config, Stem};
//! use coronet::program::{Placement, Program};
//! use coronet::weights::Weights;
//!
//! # fn main() -> coronet::Result<()> {
//! let config = Config::new(4, Stem::Half, 1, 1)?;
//! let network = CeNet::build(config, 1, 96, 96)?;
//! let device = CpuDevice::new(None)?;
//! let program = Program::lower(&network.graph, &[network.probability], &device, Placement::Shared)?;
//! let mut session = device.load(program)?;
//!
//! let weights = Weights::seeded(config, 1)?;
//! weights.write_into(&network, |id, numbers| session.write(id, numbers))?;
//! session.write(network.window, &vec![0.5; 3 * 96 * 96])?; // three frames, oldest first
//! session.run()?;
//! let probability = session.read(network.probability)?;
//! assert!(probability.data().iter().all(|p| (0.0..=1.0).contains(p)));
//! # Ok(())
//! # }
//! ```
//!
//! Whole clips go through [`segment::segment_clip`].

#![warn(missing_docs)]

pub mod bench;
mod calendar;
pub mod dataset;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod graph;
pub mod media;
pub mod metrics;
pub mod model;
pub mod new_file;
pub mod ops;
pub mod phantom;
pub mod plot;
pub mod post;
pub mod program;
mod random;
pub mod result_folder;
pub mod segment;
mod staging;
pub mod train;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};

/// The commit that a release build was made from, with `-dirty` behind it when there were changes beyond it; `None`
/// in other builds and outside git.
pub const COMMIT: Option<&str> = option_env!("CORONET_COMMIT");
