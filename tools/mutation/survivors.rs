//! The mutants that no case kills, with the reason for each: `survivors.json`.
//!
//! They are found by what a line says, before and after, so that the list outlives changes elsewhere in the file.

use crate::compiler::Result;
use crate::mutants::Mutant;
use serde::Deserialize;
use std::fs;

/// Survivors on one line with one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explained {
    pub file: String,
    /// The line, without the spaces around.
    pub line: String,
    /// What mutants make of it.
    pub mutants: Vec<String>,
    /// Whether the kernel computes the same for whatever it may be given; else it is a gap in the cases.
    pub equivalent: bool,
    pub why: String,
}

impl Explained {
    pub fn all() -> Result<Vec<Explained>> {
        let text = fs::read_to_string("tools/mutation/survivors.json")?;
        Ok(serde_json::from_str(&text).map_err(|problem| format!("survivors.json: {problem}"))?)
    }

    pub fn explains(&self, mutant: &Mutant) -> bool {
        self.file == mutant.file && self.line == mutant.line && self.mutants.contains(&mutant.mutated)
    }

    /// Those of its mutants that are not among the survivors.
    pub fn stale<'a>(&'a self, survivors: &[&Mutant]) -> Vec<&'a str> {
        let survives = |mutated: &&String| {
            survivors.iter().any(|m| m.file == self.file && m.line == self.line && m.mutated == **mutated)
        };
        self.mutants.iter().filter(|mutated| !survives(mutated)).map(String::as_str).collect()
    }
}
