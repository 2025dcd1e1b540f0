//! The weights that Coronet carries along, so that a clip can be segmented with nothing else at hand.
//!
//! They are those of a small network (w = 8, N = 1, stem quarter), fitted to synthetic clips by
//! `tools/fit_demo_weights.rs`; `docs/demo-weights.md` has the commands, their seeds and what they score.

use super::Weights;
use crate::error::{Error, Result};

/// What they are, for people.
pub const EMBEDDED_ORIGIN: &str =
    "demonstration weights that Coronet carries along, fitted to synthetic clips only; not for clinical use";

const BYTES: &[u8] = include_bytes!("demo.safetensors");

impl Weights {
    /// The demonstration weights.
    ///
    /// # Errors
    /// None: a test reads them.
    pub fn embedded() -> Result<Weights> {
        Weights::parse(BYTES)
            .map_err(|problem| Error::Internal(format!("the embedded weights cannot be read: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config, Stem};

    #[test]
    fn the_embedded_weights_are_whole_and_small() {
        assert_eq!(Weights::embedded().unwrap().config(), Config::new(8, Stem::Quarter, 1, 1).unwrap());
        assert!(BYTES.len() < 4_000_000);
    }
}
