//! The weights that Coronet carries along, so that a clip can be segmented with nothing else at hand.
//!
//! They are those of a small network (w = 8, N = 1, stem quarter), fitted to synthetic clips by
//! `tools/fit_demo_weights.rs`; `docs/demo-weights.md` has the commands, which the file holds, too, and what the weights
//! score.

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

    #[test]
    fn their_file_holds_the_commands_that_the_documentation_names() {
        let commands: Vec<&str> = include_str!("../../docs/demo-weights.md")
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("cargo run") && line.contains("fit_demo_weights"))
            .collect();
        assert_eq!(commands.len(), 3);
        for command in commands {
            assert!(BYTES.windows(command.len()).any(|window| window == command.as_bytes()), "{command}");
        }
    }
}
