//! `coronet evaluate`: how well a network's masks agree with the labels of a data set.

use super::device::DeviceOptions;
use super::progress::{Progress, listen_for_ctrl_c};
use super::{check_outside, count, note, print};
use clap::{Args, ValueHint};
use coronet::dataset::{Dataset, Section, Split};
use coronet::device::{Device, Precision};
use coronet::evaluate::{ComparedAt, Estimate, Evaluation, Evaluator, Metric, Outcome, PerMetric, RESULTS};
use coronet::media::Size;
use coronet::metrics::{Bootstrap, Scores};
use coronet::post::{MinimumArea, PostProcessing, Threshold};
use coronet::result_folder::ResultFolder;
use coronet::segment::EngineNetwork;
use coronet::train::{Configuration, file};
use coronet::weights::{EMBEDDED_ORIGIN, Weights};
use coronet::{Error, Result};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Score a network on a data set: IoU, Dice, sensitivity, specificity, accuracy, clDice and HD95
///
/// Every labelled frame is segmented and compared with its label at the frame's own size, with post-processing and
/// without. Means have the interval in which they would lie, 95 times of 100, had other clips like these been drawn.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The data set: a folder of clips
    #[arg(value_name = "DATA", value_hint = ValueHint::DirPath)]
    data: PathBuf,

    /// The network's weights, scored on every labelled frame; without it and --run the network that Coronet carries along
    #[arg(long, value_name = "W", value_hint = ValueHint::FilePath)]
    weights: Option<PathBuf>,

    /// A run of `coronet train`, scored on the frames that it did not learn from; given several times, as for the folds of
    /// a cross-validation, the frames of all count together
    #[arg(long, value_name = "RUN", conflicts_with_all = ["weights", "folds"], value_hint = ValueHint::DirPath)]
    run: Vec<PathBuf>,

    /// Which weights of a run: last, or best, which were chosen by these same frames and look better than they are
    #[arg(long, value_name = "WHICH", default_value = "last", requires = "run")]
    epoch: Which,

    /// Score one of so many parts, made of whole clips, as `coronet train` divides them
    #[arg(long, value_name = "K", requires = "fold")]
    folds: Option<usize>,

    /// Which part, counted from 0
    #[arg(long, value_name = "I", requires = "folds")]
    fold: Option<usize>,

    /// The seed that the parts were made with
    #[arg(long, value_name = "S", default_value = "1", requires = "folds")]
    seed: u64,

    /// Probability from which on a pixel is vessel, 0 to 1
    #[arg(long, value_name = "T", default_value = "0.5", allow_negative_numbers = true)]
    threshold: Threshold,

    /// Drop connected components smaller than this: a share of the image (0.0005, 0.05%) or pixels (130, 130px)
    #[arg(long, value_name = "AREA", default_value = "0.05%", allow_negative_numbers = true)]
    min_area: MinimumArea,

    /// Compare at the network's size, with the label resized, instead of at the frame's own
    #[arg(long)]
    network_size: bool,

    /// Side of the square the network sees, in pixels [default: 448, and a run's own]
    #[arg(long, value_name = "S")]
    size: Option<NonZeroUsize>,

    #[command(flatten)]
    device: DeviceOptions,

    /// What convolutions, but for the temporal one, multiply; see `coronet segment` [default: float32, and a run's own]
    #[arg(long, value_name = "P")]
    precision: Option<Precision>,

    /// Folder for tables (CSV), curves (SVG), the ten worst frames (PNG) and evaluation.json; made where it is missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,

    /// Replace an evaluation that the folder already holds, once the new one is complete
    #[arg(long, requires = "out")]
    overwrite: bool,

    /// Print one JSON document on stdout, and nothing else there
    #[arg(long)]
    json: bool,

    /// No progress and no table
    #[arg(long)]
    quiet: bool,
}

/// Which weights of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Last,
    Best,
}

/// One network and the frames it is scored on.
struct Part {
    weights: Weights,
    origin: String,
    side: usize,
    precision: Precision,
    sections: Vec<Section>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    // What is cheap to find wrong comes first.
    let dataset = Dataset::open(&arguments.data)?;
    if let Some(out) = &arguments.out {
        check_outside(&arguments.data, out)?;
    }
    let parts = match arguments.run.as_slice() {
        [] => vec![weights_part(arguments, &dataset)?],
        runs => runs.iter().map(|run| run_part(run, arguments, &dataset)).collect::<Result<_>>()?,
    };
    for part in &parts {
        part.weights.config().check_size(part.side, part.side)?;
    }
    let post = PostProcessing { threshold: arguments.threshold, minimum_area: arguments.min_area };
    let at = if arguments.network_size { ComparedAt::NetworkSize } else { ComparedAt::SourceSize };
    let mut evaluator = Evaluator::new(&dataset, post, at);
    let frames = evaluator.frames_to_score(parts.iter().flat_map(|part| &part.sections))?;
    let folder =
        arguments.out.as_ref().map(|out| ResultFolder::create(out, &RESULTS, arguments.overwrite)).transpose()?;
    let mut device: Option<(Precision, Box<dyn Device>)> = None;
    let progress = Progress::new("frames", arguments.quiet);
    progress.begin(frames);
    for Part { weights, origin, side, precision, sections } in parts {
        let device = match &mut device {
            Some((of, device)) if *of == precision => device,
            other => {
                &mut other.insert((precision, arguments.device.open(arguments.quiet)?.with_precision(precision)?)).1
            }
        };
        let size = Size { width: side, height: side };
        let mut network = EngineNetwork::load(&weights, &**device, size)?.with_origin(origin);
        evaluator.add(&mut network, &sections, &progress)?;
    }
    drop(progress);
    let evaluation = evaluator.finish(&Bootstrap::default())?;
    if let Some(folder) = folder {
        evaluation.write(&folder).map_err(|error| folder.with_final_path(error))?;
        folder.commit()?;
    }
    if arguments.json {
        let text = serde_json::to_string_pretty(&evaluation.document()?);
        let text = text.map_err(|error| Error::Internal(format!("the evaluation is not JSON: {error}")))?;
        print(&mut io::stdout().lock(), &text)
    } else if arguments.quiet {
        Ok(())
    } else {
        print(&mut io::stdout().lock(), &report(&evaluation, arguments.out.as_deref()))
    }
}

/// The weights that the arguments name, or the embedded ones.
fn weights_part(arguments: &Arguments, dataset: &Dataset) -> Result<Part> {
    let path = arguments.weights.as_deref();
    let weights = path.map_or_else(Weights::embedded, Weights::load)?;
    if path.is_none() && !arguments.quiet {
        note(&format!("coronet: neither --weights nor --run: using the {EMBEDDED_ORIGIN}"));
    }
    let sections = match (arguments.folds, arguments.fold) {
        (Some(folds), Some(fold)) => {
            let sections = Split::fold(dataset, folds, fold, arguments.seed)?;
            if sections.iter().all(|section| section.labelled(dataset).next().is_none()) {
                let place = dataset.folder().display();
                return Err(Error::Request(format!(
                    "{place} has no labelled frame to score in fold {fold} of {folds}"
                )));
            }
            sections
        }
        _ => Section::whole_clips(dataset).collect(),
    };
    Ok(Part {
        weights,
        origin: path.map_or(EMBEDDED_ORIGIN.to_owned(), |path| path.to_string_lossy().into_owned()),
        side: arguments.size.map_or(448, NonZeroUsize::get),
        precision: arguments.precision.unwrap_or(Precision::Float32),
        sections,
    })
}

/// A run's weights and the frames that it did not learn from.
fn run_part(run: &Path, arguments: &Arguments, dataset: &Dataset) -> Result<Part> {
    let configuration = Configuration::read(run)?;
    let sections = configuration.split(run, dataset)?.test;
    if sections.is_empty() {
        let place = run.display();
        return Err(Error::Request(format!(
            "the run in {place} learned from everything; score its weights on other data with --weights"
        )));
    }
    let path = run.join(if arguments.epoch == Which::Last { file::LAST } else { file::BEST });
    Ok(Part {
        weights: Weights::load(&path)?,
        origin: path.to_string_lossy().into_owned(),
        side: arguments.size.map_or(configuration.settings.recipe.side, NonZeroUsize::get),
        precision: arguments.precision.unwrap_or(configuration.precision),
        sections,
    })
}

const NAMES: PerMetric<&str> = PerMetric {
    iou: "IoU",
    dice: "Dice",
    sensitivity: "sensitivity",
    specificity: "specificity",
    accuracy: "accuracy",
    cl_dice: "clDice",
    hd95: "HD95 px",
};

/// Scores over all, then clip by clip, then what to know about them.
fn report(evaluation: &Evaluation<'_>, out: Option<&Path>) -> String {
    let mut rows = vec![with_names("")];
    for (title, outcome) in [("with post-processing", &evaluation.processed), ("without", &evaluation.raw)] {
        rows.push(vec![title.to_owned()]);
        rows.extend(outcome_rows(outcome));
    }
    rows.push(Vec::new());
    rows.push(with_names("clip, with post-processing"));
    rows.extend(evaluation.clips.iter().map(|clip| {
        let name = format!("  {} ({})", clip.clip, count(clip.frames, "frame"));
        with_cells(name, |metric| clip.processed.get(metric).map_or("-".into(), |mean| cell(metric, mean)))
    }));
    let mut lines = aligned(&rows);
    lines.push(String::new());
    lines.push(totals(evaluation));
    if let Some(out) = out {
        let name = |file: &str| out.join(file).display().to_string();
        lines.push(format!("tables and curves in {}, the worst frames in {}", out.display(), name("worst")));
    }
    lines.join("\n")
}

fn with_names(first: &str) -> Vec<String> {
    with_cells(first.to_owned(), |metric| (*NAMES.get(metric)).to_owned())
}

fn with_cells(first: String, cell: impl Fn(Metric) -> String) -> Vec<String> {
    std::iter::once(first).chain(Metric::ALL.map(cell)).collect()
}

fn outcome_rows(outcome: &Outcome) -> [Vec<String>; 3] {
    let estimate = |metric| -> &Estimate { outcome.mean.get(metric) };
    let mean = |metric| estimate(metric).mean.map_or("-".into(), |mean| cell(metric, mean));
    let interval = |metric| match estimate(metric).interval {
        Some(interval) => format!("{}-{}", cell(metric, interval.low), cell(metric, interval.high)),
        None => "-".into(),
    };
    let Scores { iou, dice, sensitivity, specificity, accuracy } = outcome.pooled;
    let pooled = PerMetric {
        iou: Some(iou),
        dice: Some(dice),
        sensitivity: Some(sensitivity),
        specificity: Some(specificity),
        accuracy: Some(accuracy),
        cl_dice: None,
        hd95: None,
    };
    let pooled = |metric| pooled.get(metric).map_or("-".into(), |value| cell(metric, value));
    [
        with_cells("  mean of the frames".into(), mean),
        with_cells("  95 % interval over clips".into(), interval),
        with_cells("  all pixels together".into(), pooled),
    ]
}

/// Shares with four digits, distances with one.
fn cell(metric: Metric, value: f64) -> String {
    if metric == Metric::Hd95 { format!("{value:.1}") } else { format!("{value:.4}") }
}

/// Names from the left, numbers from the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 if row.len() == 1 => cell.clone(),
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

fn totals(evaluation: &Evaluation<'_>) -> String {
    let Evaluation { processed, raw, clips, .. } = evaluation;
    let mut text = format!("{} in {}", count(processed.frames, "frame"), count(clips.len(), "clip"));
    let (processed, raw) = (processed.without_hd95, raw.without_hd95);
    if processed > 0 || raw > 0 {
        let processed = count(processed, "frame");
        text += "; left out of HD95, since mask or label is empty: ";
        text += &format!("{processed} with post-processing, {raw} without");
    }
    if let Some(area) = evaluation.sweep.average_precision() {
        text += &format!("; average precision {area:.4}");
    }
    if let Some(best) = evaluation.sweep.best() {
        text += &format!("; Dice of all pixels is highest at threshold {:.2}: {:.4}", best.threshold, best.dice);
    }
    if clips.len() < 2 {
        text += "; one clip has no intervals";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let lines =
            aligned(&[row(&["", "IoU"]), row(&["a long title alone"]), row(&["ä", "0.5"]), row(&["bc", "10.25"])]);
        assert_eq!(
            lines,
            [
                "                      IoU",
                "a long title alone",
                "ä                     0.5",
                "bc                  10.25"
            ]
        );
    }
}
