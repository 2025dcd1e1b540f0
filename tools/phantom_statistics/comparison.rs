//! The table: each figure of [`super::measure`] on the real cine, the real stills and the phantom's reference.

use super::measure::{
    self, Picture, compared_mask, contrast_to_noise, median, motion, quantile, spectrum_slope, widths,
};
use coronet::media::{Frame, Mask, open};
use coronet::phantom::{Phantom, Preset, Settings};
use coronet::{Error, Result};
use std::fmt::Write as _;
use std::path::Path;

/// Patients of the reference, and the seed of their set.
const CLIPS: usize = 8;
const SEED: u64 = 1;
/// When vessels are filled, in seconds since the injection began.
const FILLED: [f64; 3] = [1.4, 2.0, 2.6];
/// Pairs of successive frames to measure motion on: more than a heartbeat.
const PAIRS: usize = 24;

/// One figure on both sides.
pub struct Row {
    pub what: &'static str,
    pub real: f64,
    pub phantom: f64,
    /// The largest factor by which they may differ, either way.
    pub factor: f64,
}

impl Row {
    /// Phantom over real.
    pub fn ratio(&self) -> f64 {
        self.phantom / self.real
    }

    /// Whether the ratio is within the factor; NaN is not.
    pub fn agrees(&self) -> bool {
        (1.0 / self.factor..=self.factor).contains(&self.ratio())
    }
}

/// What was measured, and the pictures it was measured on.
pub struct Comparison {
    pub rows: Vec<Row>,
    real: Vec<Picture>,
    phantom: Vec<Picture>,
}

/// Medians over a set of pictures.
#[derive(Default)]
struct Looks {
    contrast_to_noise: Vec<f64>,
    ridge_contrast: Vec<f64>,
    slopes: Vec<f64>,
    widths: Vec<f64>,
    pictures: Vec<Picture>,
}

impl Looks {
    fn look(&mut self, frame: Frame, mask: Option<&Mask>) -> Result<()> {
        let picture = Picture::compared(frame)?;
        self.ridge_contrast.extend(contrast_to_noise(&picture, &picture.ridges()));
        self.slopes.extend(spectrum_slope(&picture));
        if let Some(mask) = mask {
            let (size, vessel) = compared_mask(mask)?;
            self.contrast_to_noise.extend(contrast_to_noise(&picture, &vessel));
            self.widths.extend(widths(&vessel, size));
        }
        self.pictures.push(picture);
        Ok(())
    }
}

impl Comparison {
    /// Measures everything on the real cine and stills and on the phantom's reference.
    pub fn measure(cine: &Path, stills: &Path) -> Result<Comparison> {
        let (mut film, rate, mut film_motion) = look_at_cine(cine)?;
        let mut still = look_at_stills(stills)?;
        let (mut phantom, mut phantom_motion) = look_at_phantom(rate)?;
        let none = || Error::Request("there is nothing to measure in these files".into());
        let middle = |values: &mut Vec<f64>| median(values).ok_or_else(none);
        let row = |what, real, phantom, factor| Row { what, real, phantom, factor };
        let mut rows = vec![
            row(
                "contrast-to-noise ratio, in the masks (stills)",
                middle(&mut still.contrast_to_noise)?,
                middle(&mut phantom.contrast_to_noise)?,
                1.5,
            ),
            row(
                "contrast-to-noise ratio, in the darkest ridges (cine)",
                middle(&mut film.ridge_contrast)?,
                middle(&mut phantom.ridge_contrast)?,
                1.5,
            ),
            row(
                "contrast-to-noise ratio, in the darkest ridges (stills)",
                middle(&mut still.ridge_contrast)?,
                middle(&mut phantom.ridge_contrast)?,
                1.5,
            ),
            row("slope of the power spectrum (cine)", middle(&mut film.slopes)?, middle(&mut phantom.slopes)?, 1.2),
            row("slope of the power spectrum (stills)", middle(&mut still.slopes)?, middle(&mut phantom.slopes)?, 1.2),
        ];
        for (what, share) in [
            ("vessel width, 25th percentile (stills)", 0.25),
            ("vessel width, median (stills)", 0.5),
            ("vessel width, 90th percentile (stills)", 0.9),
        ] {
            let at = |values: &mut Vec<f64>| quantile(values, share).ok_or_else(none);
            rows.push(row(what, at(&mut still.widths)?, at(&mut phantom.widths)?, 1.4));
        }
        for (what, share) in
            [("motion per frame, median (cine)", 0.5), ("motion per frame, 90th percentile (cine)", 0.9)]
        {
            let at = |values: &mut Vec<f64>| quantile(values, share).ok_or_else(none);
            rows.push(row(what, at(&mut film_motion)?, at(&mut phantom_motion)?, 1.6));
        }
        film.pictures.append(&mut still.pictures);
        Ok(Comparison { rows, real: film.pictures, phantom: phantom.pictures })
    }

    /// As Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| | real | phantom | ratio | may differ by |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let verdict = if row.agrees() { "" } else { " **no**" };
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.2}{verdict} | x {} |",
                row.what,
                row.real,
                row.phantom,
                row.ratio(),
                row.factor
            );
        }
        text
    }

    /// Leaves `real.png` and `phantom.png` in `folder`, each a grid of pictures as they were measured.
    #[allow(dead_code)] // the test measures only
    pub fn save_pictures(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        for (name, pictures) in [("real.png", &self.real), ("phantom.png", &self.phantom)] {
            let path = folder.join(name);
            let (columns, side) = (6, measure::SIDE);
            let step = (pictures.len() / 24).max(1);
            let shown: Vec<&Picture> = pictures.iter().step_by(step).take(24).collect();
            let (width, height) = (columns * side, shown.len().div_ceil(columns) * side);
            let mut grid = image::GrayImage::new(width as u32, height as u32);
            for (index, picture) in shown.iter().enumerate() {
                for (i, value) in picture.values.iter().enumerate().filter(|(i, _)| i / picture.size.width < side) {
                    let (x, y) = (i % picture.size.width, i / picture.size.width);
                    let place = ((index % columns * side + x) as u32, (index / columns * side + y) as u32);
                    grid.put_pixel(place.0, place.1, image::Luma([*value as u8]));
                }
            }
            grid.save(&path).map_err(|error| Error::media(&path, error.to_string()))?;
        }
        Ok(())
    }
}

/// The second half of a cine, in which vessels are filled, its frame rate and its motion.
fn look_at_cine(path: &Path) -> Result<(Looks, f64, Vec<f64>)> {
    let mut reader = open(path)?;
    let frames = reader.info().frames;
    let rate = reader.info().frame_time.map_or(15.0, |time| 1.0 / time.as_secs_f64());
    let (mut looks, mut moves) = (Looks::default(), Vec::new());
    let (mut index, mut before): (usize, Option<Picture>) = (0, None);
    while let Some(frame) = reader.next_frame()? {
        if index >= frames / 2 {
            if index % 8 == 0 {
                looks.look(frame.clone(), None)?;
            }
            let here = Picture::new(frame)?;
            if let Some(before) = before.as_ref().filter(|_| index <= frames / 2 + PAIRS) {
                moves.extend(motion(before, &here));
            }
            before = Some(here);
        }
        index += 1;
    }
    Ok((looks, rate, moves))
}

fn look_at_stills(folder: &Path) -> Result<Looks> {
    let mut looks = Looks::default();
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut masks: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_mask.png")))
        .collect();
    masks.sort();
    for mask_path in masks {
        let frame_path = mask_path.to_string_lossy().replace("_mask.png", ".png");
        let read = |path: &Path| open(path)?.next_frame()?.ok_or_else(|| Error::media(path, "holds no picture"));
        let mask = read(&mask_path)?.into_grey();
        let mask = Mask { size: mask.size(), pixels: mask.samples().to_vec() };
        looks.look(read(Path::new(&frame_path))?, Some(&mask))?;
    }
    Ok(looks)
}

/// The reference at its own rate for single frames, at the cine's for motion.
fn look_at_phantom(rate: f64) -> Result<(Looks, Vec<f64>)> {
    let (mut looks, mut moves) = (Looks::default(), Vec::new());
    for clip in 0..CLIPS {
        let settings = Preset::Reference.settings(SEED, clip);
        for start_seconds in FILLED {
            let drawn = Phantom::new(Settings { start_seconds, frames: 1, ..settings.clone() })?.frame(0)?;
            looks.look(drawn.frame, Some(&drawn.mask))?;
        }
        if clip < 3 {
            let filled = Settings { start_seconds: FILLED[0], frames: PAIRS + 1, frames_per_second: rate, ..settings };
            let phantom = Phantom::new(filled)?;
            let mut before = None;
            for index in 0..=PAIRS {
                let here = Picture::new(phantom.frame(index)?.frame)?;
                if let Some(before) = &before {
                    moves.extend(motion(before, &here));
                }
                before = Some(here);
            }
        }
    }
    Ok((looks, moves))
}
