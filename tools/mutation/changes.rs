//! Which lines of `kernels/` a change has touched, as git tells it.

use super::compiler::Result;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Command;

/// Lines of each file, counted from 1.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<String, Vec<Range<usize>>>);

impl Changes {
    /// What differs from a commit.
    ///
    /// # Errors
    /// When git does not know it, or this is no checkout.
    pub fn since(commit: &str) -> Result<Changes> {
        let asked = ["diff", "--unified=0", "--no-color", "--no-ext-diff", "--dst-prefix=b/", commit, "--", "kernels"];
        let output =
            Command::new("git").args(asked).output().map_err(|problem| format!("cannot run git: {problem}"))?;
        if !output.status.success() {
            return Err(format!("git: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
        }
        Ok(Changes::of_diff(&String::from_utf8_lossy(&output.stdout)))
    }

    /// What a diff without context adds.
    pub fn of_diff(diff: &str) -> Changes {
        let (mut changes, mut file) = (BTreeMap::new(), String::new());
        for line in diff.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                file = path.rsplit('/').next().unwrap_or_default().to_owned();
            } else if let Some(added) = line.strip_prefix("@@ ").and_then(|rest| rest.split(['+', ' ']).nth(2)) {
                // `12,3`, or `12` for one line.
                let (first, count) = added.split_once(',').unwrap_or((added, "1"));
                if let (Ok(first), Ok(count)) = (first.parse::<usize>(), count.parse::<usize>()) {
                    changes.entry(file.clone()).or_insert_with(Vec::new).push(first..first + count);
                }
            }
        }
        Changes(changes)
    }

    /// Whether some of these lines are among them.
    pub fn touch(&self, file: &str, lines: Range<usize>) -> bool {
        let ranges = self.0.get(file).map_or(&[][..], Vec::as_slice);
        ranges.iter().any(|range| range.start < lines.end && lines.start < range.end)
    }
}
