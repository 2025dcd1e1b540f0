//! `coronet dataset check`: whether a data set can be learned from, and what is in it.

use super::super::progress::{Progress, listen_for_ctrl_c};
use super::super::{count, print};
use clap::{Args, ValueHint};
use coronet::dataset::{Inspection, Tally};
use coronet::{Error, Result};
use std::io;
use std::path::PathBuf;

/// Read every frame and label of a data set, and say what is in it and what is wrong with it
///
/// A data set is a folder of clips, each a folder with frames/NNNN.png and labels/NNNN.png; vessel is 128 and more in a
/// label. Fails when there is a problem; notes are none.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The data set: a folder of clips
    #[arg(value_name = "DATA", value_hint = ValueHint::DirPath)]
    data: PathBuf,

    /// Print one JSON document on stdout, and nothing else there
    #[arg(long)]
    json: bool,

    /// No progress and no table, only problems
    #[arg(long)]
    quiet: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let progress = Progress::new("frames", arguments.quiet);
    let inspection = Inspection::of(&arguments.data, &progress)?;
    drop(progress);
    let text = if arguments.json {
        serde_json::to_string_pretty(&inspection)
            .map_err(|e| Error::Internal(format!("the inspection is not JSON: {e}")))?
    } else if arguments.quiet {
        problems(&inspection).join("\n")
    } else {
        report(&inspection)
    };
    if !text.is_empty() {
        print(&mut io::stdout().lock(), &text)?;
    }
    match inspection.problems.len() {
        0 => Ok(()),
        problems => {
            let folder = arguments.data.display();
            Err(Error::Verification(format!("{} in {folder}", count(problems, "problem"))))
        }
    }
}

fn problems(inspection: &Inspection) -> Vec<String> {
    inspection.problems.iter().map(|problem| format!("problem: {problem}")).collect()
}

/// A row for each clip, then what to know, then what is wrong, then the totals.
fn report(inspection: &Inspection) -> String {
    let mut lines = if inspection.clips.is_empty() { Vec::new() } else { table(inspection) };
    lines.extend(inspection.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(problems(inspection));
    lines.push(totals(inspection));
    lines.join("\n")
}

const HEAD: [&str; 10] = ["clip", "size", "frames", "labels", "empty", "full", "vessel", "min", "max", "colour"];

fn table(inspection: &Inspection) -> Vec<String> {
    let mut rows = vec![HEAD.map(String::from)];
    rows.extend(inspection.clips.iter().map(|clip| row(&clip.name, &clip.size.to_string(), &clip.tally)));
    let widths: [usize; HEAD.len()] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; HEAD.len()]| {
        // Names from the left, numbers from the right.
        let first = format!("{:<width$}", row[0], width = widths[0]);
        let others = row.iter().zip(widths).skip(1).map(|(cell, width)| format!("{cell:>width$}"));
        std::iter::once(first).chain(others).collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

fn row(name: &str, size: &str, tally: &Tally) -> [String; HEAD.len()] {
    let [mean, min, max] = match tally.vessel_share {
        Some(share) => [share.mean, share.min, share.max].map(percent),
        None => ["-"; 3].map(String::from),
    };
    let [frames, labels, empty, full, colour] =
        [tally.frames, tally.labelled_frames, tally.empty_labels, tally.full_labels, tally.colour_frames]
            .map(|number| number.to_string());
    [name.to_owned(), size.to_owned(), frames, labels, empty, full, mean, min, max, colour]
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn totals(inspection: &Inspection) -> String {
    let Inspection { totals, clips, problems, .. } = inspection;
    let vessel = totals.vessel_share.map(|share| format!(", {} vessel on average", percent(share.mean)));
    format!(
        "{}, {}, {}{}; {}",
        count(clips.len(), "clip"),
        count(totals.frames, "frame"),
        count(totals.labelled_frames, "label"),
        vessel.unwrap_or_default(),
        if problems.is_empty() { "no problems".into() } else { count(problems.len(), "problem") }
    )
}
