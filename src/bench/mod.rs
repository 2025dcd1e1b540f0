//! One use of the engine: how long a frame takes, from its 8 bits to its mask, and where the time goes.
//!
//! [`FrameBench`] does what [`crate::segment`] does for a frame of a clip, without decoding and writing files, one step
//! after the other, and times each: on the host, or as the device does them by itself. [`Report`] is what is published of it.

mod environment;
mod frames;
mod report;
mod steps;

pub use environment::{Environment, peak_resident_bytes};
pub use frames::{FrameBench, FrameTimes, Mode};
pub use report::{
    Cell, ColdStart, Configuration, KernelRow, Method, Metric, ModeReport, Report, SCHEMA, SCHEMA_VERSION, StepRow,
};
pub use steps::{StepTime, by_kernel};
