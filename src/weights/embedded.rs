//! The weights that Coronet carries along, so that a clip can be segmented with nothing else at hand.
//!
//! They are those of a small network (w = 16, N = 1, stem half), trained by `tools/train_weights` on synthetic clips and
//! a few real stills; `docs/weights.md` says on what, how, and what they score.

use super::Weights;
use crate::error::{Error, Result};

/// What they are, for people.
pub const EMBEDDED_ORIGIN: &str =
    "weights that Coronet carries along, trained on synthetic clips and a few real stills; not for clinical use";

const BYTES: &[u8] = include_bytes!("coronary.safetensors");

impl Weights {
    /// The weights that Coronet carries along.
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
        assert_eq!(Weights::embedded().unwrap().config(), Config::new(16, Stem::Half, 1, 1).unwrap());
        assert!(BYTES.len() < 8_000_000);
    }

    /// Whoever replaces the file has scores to replace, too.
    #[test]
    fn the_documentation_is_about_this_file() {
        let sum = format!("CRC-32C `{:08x}`", crc32c::crc32c(BYTES));
        assert!(include_str!("../../docs/weights.md").contains(&sum), "docs/weights.md lacks {sum}");
    }
}
