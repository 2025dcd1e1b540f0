//! Coronet segments coronary arteries in angiographic video.
//!
//! 2N+1 consecutive X-ray frames go in, the vessel mask of the middle frame comes out: the 3D-2D CE-Net of
//! Wang, Liang et al., BMC Med Imaging 20:110 (2020), on a compute engine written for it.

#![warn(missing_docs)]

pub mod device;
pub mod error;
pub mod graph;
pub mod media;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod post;
pub mod program;
pub mod segment;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
