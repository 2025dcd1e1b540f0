//! What became of the mutants, for people and as JSON.

use crate::compiler::Result;
use crate::kernels::Kernels;
use crate::mutants::Mutant;
use crate::survivors::Explained;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// The least share of mutants that cases must kill.
const LEAST_KILLED: f64 = 0.95;

/// Why a mutant was killed that was ended for taking too long.
pub const ENDLESS: &str = "does not end";
/// How the reason begins where only the checked build, which does as many runs as there is time for, has found one.
pub const WHEN_CHECKED: &str = "checked: ";

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Killed(String),
    Survived,
    /// No mutant: the compiler makes the same of it.
    SameCode,
    /// No mutant: the compiler refuses it.
    DoesNotCompile(String),
    /// Something else went wrong.
    Failed(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Killed(why) => write!(f, "killed ({why})"),
            Fate::Survived => write!(f, "SURVIVED"),
            Fate::SameCode => write!(f, "same code"),
            Fate::DoesNotCompile(_) => write!(f, "does not compile"),
            Fate::Failed(why) => write!(f, "FAILED ({why})"),
        }
    }
}

pub struct Report {
    mutants: Vec<Mutant>,
    fates: Vec<Fate>,
    explained: Vec<Explained>,
    kernels: Kernels,
}

/// Of one kernel, or of all.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    mutants: usize,
    killed: usize,
    explained: usize,
    unexplained: usize,
}

impl Count {
    fn killed_share(self) -> f64 {
        if self.mutants == 0 { 1.0 } else { self.killed as f64 / self.mutants as f64 }
    }
}

impl Report {
    pub fn new(mutants: Vec<Mutant>, fates: Vec<Fate>, explained: Vec<Explained>, kernels: Kernels) -> Report {
        Report { mutants, fates, explained, kernels }
    }

    fn pairs(&self) -> impl Iterator<Item = (&Mutant, &Fate)> {
        self.mutants.iter().zip(&self.fates)
    }

    fn survivors(&self) -> Vec<&Mutant> {
        self.pairs().filter(|(_, fate)| **fate == Fate::Survived).map(|(mutant, _)| mutant).collect()
    }

    fn is_explained(&self, mutant: &Mutant) -> bool {
        self.explained.iter().any(|entry| entry.explains(mutant))
    }

    fn count<'a>(&self, pairs: impl Iterator<Item = (&'a Mutant, &'a Fate)>) -> Count {
        let mut count = Count::default();
        for (mutant, fate) in pairs {
            count.mutants += usize::from(matches!(fate, Fate::Killed(_) | Fate::Survived));
            count.killed += usize::from(matches!(fate, Fate::Killed(_)));
            let survived = *fate == Fate::Survived;
            count.explained += usize::from(survived && self.is_explained(mutant));
            count.unexplained += usize::from(survived && !self.is_explained(mutant));
        }
        count
    }

    fn total(&self) -> Count {
        self.count(self.pairs())
    }

    /// A mutant of what several kernels share counts for each of them.
    fn counts(&self) -> BTreeMap<&str, Count> {
        let mut mutants: BTreeMap<&str, Vec<(&Mutant, &Fate)>> = BTreeMap::new();
        for (mutant, fate) in self.pairs() {
            let kernels = self.kernels.at(&mutant.file, mutant.span.start);
            let kernels = if kernels.is_empty() { vec!["(of no kernel)"] } else { kernels };
            kernels.into_iter().for_each(|kernel| mutants.entry(kernel).or_default().push((mutant, fate)));
        }
        mutants.into_iter().map(|(kernel, of_it)| (kernel, self.count(of_it.into_iter()))).collect()
    }

    /// Explanations of what does not survive. What depends on the machine's speed makes none wrong: whether one that only
    /// costs time is ended for it, and how many runs the checked build does.
    fn stale(&self) -> Vec<String> {
        let lives = |fate: &Fate| match fate {
            Fate::Survived => true,
            Fate::Killed(why) => why == ENDLESS || why.starts_with(WHEN_CHECKED),
            _ => false,
        };
        let survivors: Vec<&Mutant> = self.pairs().filter(|(_, fate)| lives(fate)).map(|(mutant, _)| mutant).collect();
        let stale = |entry: &Explained| -> Vec<String> {
            entry.stale(&survivors).iter().map(|mutated| format!("{}: {mutated}", entry.file)).collect()
        };
        self.explained.iter().flat_map(stale).collect()
    }

    /// Whether every survivor is explained, at least one of several mutants is killed and, of a run over all, enough are and no
    /// explanation is left over.
    pub fn is_good(&self, is_full: bool) -> bool {
        let went_wrong =
            self.fates.len() != self.mutants.len() || self.fates.iter().any(|fate| matches!(fate, Fate::Failed(_)));
        let total = self.total();
        // Where nothing is killed, and not for being nothing, mutants are not what is tested.
        let went_wrong = went_wrong || self.mutants.len() > 1 && total.killed + total.explained == 0;
        let enough = !is_full || total.killed_share() >= LEAST_KILLED && self.stale().is_empty();
        !went_wrong && total.unexplained == 0 && enough
    }

    /// A line for each kernel, then what must be looked at; of a run over all mutants explanations left over, too.
    pub fn table(&self, is_full: bool) -> String {
        let mut text = format!(
            "{:<33} {:>7} {:>7} {:>7} {:>10} {:>12}\n",
            "", "mutants", "killed", "", "explained", "unexplained"
        );
        let mut line = |name: &str, count: Count| {
            let (share, Count { mutants, killed, explained, unexplained }) = (100.0 * count.killed_share(), count);
            let _ =
                writeln!(text, "{name:<33} {mutants:>7} {killed:>7} {share:>6.1}% {explained:>10} {unexplained:>12}");
        };
        self.counts().into_iter().for_each(|(kernel, count)| line(kernel, count));
        line("all, each once", self.total());
        let none = self.fates.iter().filter(|fate| matches!(fate, Fate::SameCode | Fate::DoesNotCompile(_))).count();
        let _ = writeln!(text, "{none} more that are no mutants: the compiler refuses them or makes the same of them");
        for mutant in self.survivors().iter().filter(|mutant| !self.is_explained(mutant)) {
            let (file, number, line, mutated) = (&mutant.file, mutant.line_number, &mutant.line, &mutant.mutated);
            let _ = writeln!(text, "survives: {file}:{number}\n    {line}\n    {mutated}");
        }
        for stale in self.stale().iter().filter(|_| is_full) {
            let _ = writeln!(text, "explained, but does not survive: {stale}");
        }
        text
    }

    /// Each mutant and its fate.
    pub fn json(&self) -> Result<String> {
        let mutants = self.pairs().map(|(mutant, fate)| {
            let Mutant { file, line_number, line, mutated, .. } = mutant;
            let (fate, why) = (fate.to_string(), self.explained.iter().find(|entry| entry.explains(mutant)));
            let why = why.map(|entry| format!("{}: {}", if entry.equivalent { "equivalent" } else { "gap" }, entry.why));
            let kernels = self.kernels.at(file, mutant.span.start);
            serde_json::json!({
                "file": file, "number": line_number, "line": line, "mutated": mutated, "kernels": kernels, "fate": fate, "why": why
            })
        });
        Ok(serde_json::to_string_pretty(&mutants.collect::<Vec<_>>())?)
    }
}
