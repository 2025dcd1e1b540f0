//! Coronet segments coronary arteries in angiographic video.
//!
//! 2N+1 consecutive X-ray frames go in, the vessel mask of the middle frame comes out: the 3D-2D CE-Net of
//! Wang, Liang et al., BMC Med Imaging 20:110 (2020), on a compute engine written for it.

#![warn(missing_docs)]

pub mod error;
pub mod media;
pub mod metrics;
pub mod post;
pub mod segment;

pub use error::{Error, Result};
