//! The table: each figure of [`super::measure`] on the real cine, the real stills and the phantom's reference.

use super::measure::{self, Picture, compared_mask, contrast_to_noise, motion, quantile, spectrum_slope, widths};
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
/// And when there is no agent yet.
const BEFORE: f64 = -0.3;
/// Pairs of successive frames to measure motion on: nearly a heartbeat, and on how many of the clips.
const PAIRS: usize = 24;
const MOVING: usize = 3;

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

/// Every figure of every picture of a set.
#[derive(Default)]
struct Looks {
    contrast: Vec<f64>,
    ridge_contrast: Vec<f64>,
    background_slopes: Vec<f64>,
    slopes: Vec<f64>,
    widths: Vec<f64>,
    motion: Vec<f64>,
    pictures: Vec<Picture>,
}

impl Looks {
    /// A picture with its vessels filled.
    fn look(&mut self, frame: Frame, mask: Option<&Mask>) -> Result<()> {
        let picture = Picture::compared(frame)?;
        self.ridge_contrast.extend(contrast_to_noise(&picture, &picture.ridges()));
        self.slopes.extend(spectrum_slope(&picture));
        if let Some(mask) = mask {
            let (size, vessel) = compared_mask(mask)?;
            self.contrast.extend(contrast_to_noise(&picture, &vessel));
            self.widths.extend(widths(&vessel, size));
        }
        self.pictures.push(picture);
        Ok(())
    }

    /// A picture from before the agent.
    fn look_at_background(&mut self, frame: Frame) -> Result<()> {
        self.background_slopes.extend(spectrum_slope(&Picture::compared(frame)?));
        Ok(())
    }
}

impl Comparison {
    /// Measures everything on the real cine and stills and on the phantom's reference.
    pub fn measure(cine: &Path, stills: &Path) -> Result<Comparison> {
        let rate = open(cine)?.info().frame_time.map_or(15.0, |time| 1.0 / time.as_secs_f64());
        let look_at_real = || rayon::join(|| look_at_cine(cine), || look_at_stills(stills));
        let (drawn, (film, still)) = rayon::join(|| look_at_phantom(rate), look_at_real);
        let (film, still, drawn) = (film?, still?, drawn?);
        let rows = [
            ("contrast-to-noise ratio in the masks (stills)", &still.contrast, &drawn.contrast, 0.5, 1.5),
            (
                "contrast-to-noise ratio in the darkest ridges (cine)",
                &film.ridge_contrast,
                &drawn.ridge_contrast,
                0.5,
                1.5,
            ),
            (
                "contrast-to-noise ratio in the darkest ridges (stills)",
                &still.ridge_contrast,
                &drawn.ridge_contrast,
                0.5,
                1.5,
            ),
            (
                "slope of the background's power spectrum (cine, before the agent)",
                &film.background_slopes,
                &drawn.background_slopes,
                0.5,
                1.2,
            ),
            ("slope of the power spectrum, vessels filled (cine)", &film.slopes, &drawn.slopes, 0.5, 1.2),
            ("slope of the power spectrum, vessels filled (stills)", &still.slopes, &drawn.slopes, 0.5, 1.2),
            ("vessel width in pixels of 300 across, 25th percentile (stills)", &still.widths, &drawn.widths, 0.25, 1.4),
            ("vessel width, median (stills)", &still.widths, &drawn.widths, 0.5, 1.4),
            ("vessel width, 90th percentile (stills)", &still.widths, &drawn.widths, 0.9, 1.4),
            (
                "motion from frame to frame in % of the picture's width, median (cine)",
                &film.motion,
                &drawn.motion,
                0.5,
                1.6,
            ),
            ("motion from frame to frame, 90th percentile (cine)", &film.motion, &drawn.motion, 0.9, 1.6),
        ]
        .into_iter()
        .map(|(what, real, phantom, share, factor)| {
            let at = |values: &[f64]| {
                quantile(values, share).ok_or_else(|| Error::Request(format!("nothing to measure for: {what}")))
            };
            Ok(Row { what, real: at(real)?, phantom: at(phantom)?, factor })
        })
        .collect::<Result<_>>()?;
        Ok(Comparison { rows, real: [film.pictures, still.pictures].concat(), phantom: drawn.pictures })
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

/// A cine: its first frames are before the agent, in its second half vessels are filled.
fn look_at_cine(path: &Path) -> Result<Looks> {
    let mut reader = open(path)?;
    let filled = reader.info().frames / 2;
    let mut looks = Looks::default();
    let (mut index, mut before): (usize, Option<Picture>) = (0, None);
    while let Some(frame) = reader.next_frame()? {
        if index < 3 {
            looks.look_at_background(frame.clone())?;
        }
        if index >= filled {
            if index % 8 == 0 {
                looks.look(frame.clone(), None)?;
            }
            let here = Picture::new(frame)?;
            if let Some(before) = before.as_ref().filter(|_| index <= filled + PAIRS) {
                looks.motion.extend(motion(before, &here));
            }
            before = Some(here);
        }
        index += 1;
    }
    Ok(looks)
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
fn look_at_phantom(rate: f64) -> Result<Looks> {
    let mut looks = Looks::default();
    for clip in 0..CLIPS {
        let settings = Preset::Reference.settings(SEED, clip);
        let at = |start_seconds| Phantom::new(Settings { start_seconds, frames: 1, ..settings.clone() })?.frame(0);
        looks.look_at_background(at(BEFORE)?.frame)?;
        for start_seconds in FILLED {
            let drawn = at(start_seconds)?;
            looks.look(drawn.frame, Some(&drawn.mask))?;
        }
        if clip < MOVING {
            let filled = Settings { start_seconds: FILLED[0], frames: PAIRS + 1, frames_per_second: rate, ..settings };
            let phantom = Phantom::new(filled)?;
            let mut before = Picture::new(phantom.frame(0)?.frame)?;
            for index in 1..=PAIRS {
                let here = Picture::new(phantom.frame(index)?.frame)?;
                looks.motion.extend(motion(&before, &here));
                before = here;
            }
        }
    }
    Ok(looks)
}
