//! An evaluation as files: tables, curves and the worst frames as pictures.

use super::{Evaluation, FrameScores, Metric, PoorFrame};
use crate::error::{Error, Result};
use crate::media::BilinearResize;
use crate::media::output::{compare_masks, picture_png};
use crate::metrics::{OperatingPoint, PrecisionRecall};
use crate::plot::{Chart, Series, Style};
use crate::result_folder::{ResultFolder, ResultKind};
use std::fmt::Write as _;
use std::path::Path;

/// What [`Evaluation::write`] leaves in a folder.
pub const RESULTS: ResultKind = ResultKind {
    names: &[
        "frames.csv",
        "clips.csv",
        "thresholds.csv",
        "thresholds.svg",
        "precision_recall.csv",
        "precision_recall.svg",
        "worst",
        "evaluation.json",
    ],
    summary: "evaluation.json",
    schema: "coronet/evaluate",
};
const SCHEMA_VERSION: u32 = 1;

impl Evaluation<'_> {
    /// Everything but the frames one by one, the precision-recall curve and the pictures, as JSON.
    ///
    /// # Errors
    /// [`Error::Internal`] when it cannot be JSON, which is a fault of Coronet's.
    pub fn document(&self) -> Result<serde_json::Value> {
        let worst = |frame: &PoorFrame| {
            let clip = &self.dataset.clip(frame.id).name;
            serde_json::json!({ "clip": clip, "frame": self.frame_name(frame), "dice": frame.dice })
        };
        let worst: Vec<_> = self.worst.iter().map(worst).collect();
        let thresholds: Vec<_> = self.sweep.operating_points().into_iter().map(point_json).collect();
        let document = serde_json::json!({
            "schema": RESULTS.schema,
            "schema_version": SCHEMA_VERSION,
            "coronet": env!("CARGO_PKG_VERSION"),
            "commit": crate::COMMIT,
            "data": self.dataset.folder().to_string_lossy(),
            "networks": self.networks,
            "threshold": shortest(self.post.threshold.value()),
            "minimum_area": self.post.minimum_area.to_string(),
            "compared_at": self.at,
            "bootstrap": self.bootstrap,
            "post_processed": self.processed,
            "raw": self.raw,
            "clips": self.clips,
            "average_precision": self.sweep.average_precision(),
            "thresholds": thresholds,
            "best_threshold": self.sweep.best().map(point_json),
            "worst": worst,
        });
        Ok(document)
    }

    /// Writes all files of [`RESULTS`]; it is for the caller to commit them.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written; [`Error::Io`] and [`Error::Media`] when a frame cannot be read again.
    pub fn write(&self, folder: &ResultFolder) -> Result<()> {
        folder.write("frames.csv", self.frames_csv().as_bytes())?;
        folder.write("clips.csv", self.clips_csv().as_bytes())?;
        folder.write("thresholds.csv", self.thresholds_csv().as_bytes())?;
        folder.write("thresholds.svg", self.thresholds_chart().svg()?.as_bytes())?;
        let curve = self.sweep.curve();
        folder.write("precision_recall.csv", precision_recall_csv(&curve).as_bytes())?;
        folder.write("precision_recall.svg", self.precision_recall_chart(&curve).svg()?.as_bytes())?;
        for (rank, frame) in (1..).zip(&self.worst) {
            folder.write(&format!("worst/{rank:02}.png"), &self.picture(frame)?)?;
        }
        let text = serde_json::to_vec_pretty(&self.document()?);
        let text = text.map_err(|error| Error::Internal(format!("the evaluation is not JSON: {error}")))?;
        folder.write(RESULTS.summary, &text)
    }

    /// A row a frame: first with post-processing, then without.
    fn frames_csv(&self) -> String {
        let mut text = header("clip,frame", &[]);
        for frame in &self.frames {
            let clip = &self.dataset.clip(frame.id).name;
            let name = self.name_of(&self.dataset.frame(frame.id).path);
            let value = |scores: &FrameScores, metric| cell(scores.get(metric));
            let values = [&frame.processed, &frame.raw].map(|scores| Metric::ALL.map(|metric| value(scores, metric)));
            row(&mut text, &[field(clip), field(&name)], &values, &[]);
        }
        text
    }

    /// A row a clip: means over its frames, first with post-processing, then without, and how many have no HD95.
    fn clips_csv(&self) -> String {
        let mut text = header("clip,frames", &["without_hd95", "raw_without_hd95"]);
        for clip in &self.clips {
            let values = [&clip.processed, &clip.raw].map(|means| Metric::ALL.map(|metric| cell(*means.get(metric))));
            let names = [field(&clip.clip), clip.frames.to_string()];
            row(&mut text, &names, &values, &[clip.without_hd95, clip.raw_without_hd95]);
        }
        text
    }

    /// A row a threshold, over all pixels without post-processing.
    fn thresholds_csv(&self) -> String {
        let mut text = String::from("threshold,iou,dice,precision,sensitivity\n");
        for point in self.sweep.operating_points() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:.2},{:.6},{:.6},{:.6},{:.6}",
                point.threshold, point.iou, point.dice, point.precision, point.sensitivity
            );
        }
        text
    }

    fn thresholds_chart(&self) -> Chart {
        let points = self.sweep.operating_points();
        let series = |name: &str, value: fn(&OperatingPoint) -> f64| Series {
            name: name.into(),
            points: points.iter().map(|point| (f64::from(point.threshold), value(point))).collect(),
            style: Style::Line,
        };
        let best = self.sweep.best();
        let mut all = vec![
            series("Dice", |point| point.dice),
            series("IoU", |point| point.iou),
            series("precision", |point| point.precision),
            series("sensitivity", |point| point.sensitivity),
        ];
        all.extend(best.map(|best| Series {
            name: format!("best Dice, {:.3} at {:.2}", best.dice, best.threshold),
            points: vec![(f64::from(best.threshold), best.dice)],
            style: Style::Marks,
        }));
        Chart {
            title: "Scores at every threshold, all pixels together".into(),
            x_label: "threshold".into(),
            y_label: "score".into(),
            x_range: Some((0.0, 1.0)),
            y_range: Some((0.0, 1.0)),
            series: all,
        }
    }

    fn precision_recall_chart(&self, curve: &[PrecisionRecall]) -> Chart {
        let chosen = &self.raw.counts;
        let name = match self.sweep.average_precision() {
            Some(area) => format!("average precision {area:.3}"),
            None => "no vessel in any label".into(),
        };
        let points = curve.iter().map(|point| (point.recall, point.precision)).collect();
        let mut series = vec![Series { name, points, style: Style::Line }];
        // Where no label has vessel there is no recall.
        if !curve.is_empty() {
            series.push(Series {
                name: format!("threshold {}", self.post.threshold.value()),
                points: vec![(chosen.sensitivity(), chosen.precision())],
                style: Style::Marks,
            });
        }
        Chart {
            title: "Precision and recall, all pixels together".into(),
            x_label: "recall (sensitivity)".into(),
            y_label: "precision".into(),
            x_range: Some((0.0, 1.0)),
            y_range: Some((0.0, 1.0)),
            series,
        }
    }

    /// The frame, its label over it, its mask over it.
    fn picture(&self, poor: &PoorFrame) -> Result<Vec<u8>> {
        let frame = self.dataset.read_frame(poor.id)?;
        // Compared at the network's size, they are brought to the frame's to be looked at.
        let shown = |mask: &crate::media::Mask| match mask.size == frame.size() {
            true => Ok(mask.clone()),
            false => mask.resized(&mut BilinearResize::new(mask.size, frame.size())?),
        };
        let share = 100.0 * poor.label.vessel_pixels() as f64 / poor.label.size.area() as f64;
        let name = format!("{}/{}", self.dataset.clip(poor.id).name, self.frame_name(poor));
        let (label, mask) = (format!("label, {share:.2} %"), format!("mask, Dice {:.3}", poor.dice));
        picture_png(&compare_masks(&frame, &name, &[(&shown(&poor.label)?, &label), (&shown(&poor.mask)?, &mask)])?)
    }

    fn frame_name(&self, frame: &PoorFrame) -> String {
        self.name_of(&self.dataset.frame(frame.id).path)
    }

    fn name_of(&self, path: &Path) -> String {
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The shortest decimal number that stands for `value`: 0.3 as a float32 is 0.30000001192092896.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Named as the columns of thresholds.csv.
fn point_json(point: OperatingPoint) -> serde_json::Value {
    let OperatingPoint { threshold, iou, dice, precision, sensitivity } = point;
    serde_json::json!({
        "threshold": shortest(threshold),
        "iou": iou,
        "dice": dice,
        "precision": precision,
        "sensitivity": sensitivity,
    })
}

fn precision_recall_csv(curve: &[PrecisionRecall]) -> String {
    let mut text = String::from("threshold,precision,recall\n");
    for point in curve {
        let _ = writeln!(text, "{},{:.6},{:.6}", point.threshold, point.precision, point.recall);
    }
    text
}

/// What rows are named by, every metric with post-processing, every metric without, what is counted.
fn header(names: &str, counted: &[&str]) -> String {
    let metrics = |prefix: &str| Metric::ALL.map(|metric| format!("{prefix}{}", metric.name())).join(",");
    let counted: String = counted.iter().map(|name| format!(",{name}")).collect();
    format!("{names},{},{}{counted}\n", metrics(""), metrics("raw_"))
}

fn row(text: &mut String, names: &[String], values: &[[String; 7]; 2], counts: &[usize]) {
    text.push_str(&names.join(","));
    values.iter().flatten().for_each(|value| {
        text.push(',');
        text.push_str(value);
    });
    for count in counts {
        // Writing to a String cannot fail.
        let _ = write!(text, ",{count}");
    }
    text.push('\n');
}

/// What is missing is empty.
fn cell(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.6}"))
}

/// Text as RFC 4180 wants it.
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_and_quotes_stay_one_field() {
        assert_eq!(field("clip 1"), "clip 1");
        assert_eq!(field("a, \"b\""), "\"a, \"\"b\"\"\"");
    }
}
