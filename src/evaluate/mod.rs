//! One use of the engine: a data set and a network go in, how well the masks agree with the labels comes out.
//!
//! An [`Evaluator`] takes the frames of one network after the other, so that the test parts of a cross-validation are
//! scored together; [`Evaluation`] is what came of it, and [`Evaluation::write`] puts it into a folder.

mod evaluator;
mod files;
mod metric;
mod predict;

pub use evaluator::{ClipResult, Estimate, Evaluation, Evaluator, Outcome, PoorFrame, ScoredNetwork};
pub use files::RESULTS;
pub use metric::{FrameScores, Metric, PerMetric};
pub use predict::{ComparedAt, Prediction, for_each_prediction};

#[cfg(test)]
mod tests;
