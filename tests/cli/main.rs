//! Claims about the `coronet` binary: a real network over small clips made here, as its users run it.
//!
//! Every test has a fresh folder. The networks are small and seeded, the clips have frames that can be told apart,
//! and what a run leaves is compared byte by byte.

mod bench;
mod clips;
mod dataset;
mod device;
mod end_to_end;
mod evaluate;
mod import;
mod info;
mod labels;
mod options;
mod phantom;
mod place;
mod refused_clips;
mod refused_weights;
mod results_folder;
mod stopping;
mod stream;
mod train;
mod tune;
mod verify;
