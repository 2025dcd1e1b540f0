//! Synthetic coronary angiograms with exact masks.
//!
//! A patient is drawn from a seed: a coronary tree on a beating heart in a breathing chest, filled with contrast agent
//! through a catheter, seen by a C-arm on a detector that counts quanta. Every frame comes with the mask of the lumens
//! that hold agent, from the same geometry that was drawn. The same settings give the same bytes on one machine,
//! whatever the number of threads; across machines the last bits of sines and logarithms may differ.
//!
//! ```text
//! seed -> heart -> tree -> (beat, breath, bolus) -> tubes on the detector  --> mask
//!                \-> chest, ribs, lungs, diaphragm, catheter -> attenuation --> quanta -> 8-bit frame
//! ```
//!
//! It is made to try, train and compare programs, not to plan or judge anything medical.

mod anatomy;
mod c_arm;
mod clip_folder;
mod contrast;
mod detector;
mod heart;
mod motion;
mod preset;
mod texture;
mod tree;
mod tube;

pub use clip_folder::{ClipOptions, check_clip_place, write_clip};
pub use motion::Moment;
pub use preset::Preset;
pub use tree::{Stenosis, System};

use crate::error::{Error, Result};
use crate::media::{Colour, Frame, Mask, Size};
use crate::random::Random;
use anatomy::{Anatomy, Catheter};
use c_arm::CArm;
use contrast::Bolus;
use detector::Detector;
use heart::Heart;
use motion::Rhythm;
use tree::Tree;
use tube::{Section, TubePainter};

/// A vessel belongs to the mask where the agent is at least this share of the undiluted one.
pub const VISIBLE_CONCENTRATION: f64 = 0.2;
/// Sides of a frame, in pixels.
const SIDES: std::ops::RangeInclusive<usize> = 64..=4096;
/// The most frames of a clip.
const MOST_FRAMES: usize = 100_000;
/// The longest clip, in seconds.
const LONGEST: f64 = 3600.0;

/// Everything that decides what a clip looks like.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Settings {
    /// Which arteries are filled.
    pub system: System,
    /// C-arm: degrees towards the patient's left (LAO; RAO is negative), DICOM's positioner primary angle.
    pub primary_angle: f64,
    /// C-arm: degrees towards the head (cranial; caudal is negative), DICOM's positioner secondary angle.
    pub secondary_angle: f64,
    /// Of every frame, in pixels.
    pub size: Size,
    /// How many.
    pub frames: usize,
    /// Frames a second.
    pub frames_per_second: f64,
    /// Time of the first frame, in seconds since the injection began.
    pub start_seconds: f64,
    /// Air kerma at the detector, in nGy a frame.
    pub dose_ngy: f64,
    /// Beats a minute.
    pub heart_rate: f64,
    /// The diaphragm's way in a breath, in mm.
    pub breathing_mm: f64,
    /// What the undiluted agent attenuates, in 1/mm.
    pub agent_attenuation: f64,
    /// How unevenly agent and blood mix, 0 to 1.
    pub streaming: f64,
    /// Standard deviation of fine background structure, as attenuation.
    pub texture: f64,
    /// What the larger side of a frame shows at the isocentre, in mm.
    pub field_mm: f64,
    /// Narrowings, as far as the vessels have room for them.
    pub stenoses: usize,
    /// Whether the mask holds the catheter, too.
    pub catheter_in_mask: bool,
    /// Draws everything that is not set.
    pub seed: u64,
}

impl Settings {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Request`] naming the first that is out of range.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, range: &str, found: String| {
            Err(Error::Request(format!("the phantom's {what} must be {range}, not {found}")))
        };
        let Size { width, height } = self.size;
        if !SIDES.contains(&width) || !SIDES.contains(&height) {
            let range = format!("{} to {} pixels a side", SIDES.start(), SIDES.end());
            return refuse("size", &range, self.size.to_string());
        }
        if self.frames == 0 || self.frames > MOST_FRAMES {
            return refuse("number of frames", &format!("1 to {MOST_FRAMES}"), self.frames.to_string());
        }
        if self.stenoses > 8 {
            return refuse("number of stenoses", "0 to 8", self.stenoses.to_string());
        }
        for (what, value, low, high, unit) in [
            ("primary angle", self.primary_angle, -120.0, 120.0, " degrees"),
            ("secondary angle", self.secondary_angle, -60.0, 60.0, " degrees"),
            ("frame rate", self.frames_per_second, 0.1, 1000.0, " frames a second"),
            ("start", self.start_seconds, -60.0, 60.0, " seconds"),
            ("dose", self.dose_ngy, 0.1, 100_000.0, " nGy a frame"),
            ("heart rate", self.heart_rate, 20.0, 240.0, " beats a minute"),
            ("breathing", self.breathing_mm, 0.0, 40.0, " mm"),
            ("contrast agent", self.agent_attenuation, 0.0, 1.0, " 1/mm"),
            ("streaming", self.streaming, 0.0, 1.0, ""),
            ("texture", self.texture, 0.0, 1.0, ""),
            ("field", self.field_mm, 30.0, 400.0, " mm"),
        ] {
            // NaN lies in no range.
            if !(low..=high).contains(&value) {
                return refuse(what, &format!("{low} to {high}{unit}"), value.to_string());
            }
        }
        let seconds = self.frames as f64 / self.frames_per_second;
        if seconds > LONGEST {
            return refuse("clip", &format!("at most {LONGEST} seconds long"), seconds.to_string());
        }
        Ok(())
    }

    /// Time of a frame, in seconds since the injection began.
    pub fn seconds(&self, frame: usize) -> f64 {
        self.start_seconds + frame as f64 / self.frames_per_second
    }
}

/// One frame with its truth.
#[derive(Debug, Clone, PartialEq)]
pub struct PhantomFrame {
    /// What the detector shows, 8-bit grey.
    pub frame: Frame,
    /// The lumens that hold agent, as far as the collimator lets them be seen.
    pub mask: Mask,
    /// Where heart and lungs were.
    pub moment: Moment,
    /// The narrowest point of each stenosis in the frame, x and y in pixels from the top left pixel's middle.
    pub stenoses: Vec<(f64, f64)>,
}

/// One patient in front of one C-arm; frames can be had in any order and by several threads at once.
#[derive(Debug)]
pub struct Phantom {
    settings: Settings,
    arm: CArm,
    heart: Heart,
    rhythm: Rhythm,
    tree: Tree,
    bolus: Bolus,
    anatomy: Anatomy,
    catheter: Catheter,
    detector: Detector,
}

/// What the random numbers are for: each has a sequence of its own, so that a change to one leaves the others alone.
#[derive(Clone, Copy)]
enum Purpose {
    Heart,
    Rhythm,
    Tree,
    Stream,
    Anatomy,
    Catheter,
    Detector,
    Quanta,
}

impl Phantom {
    /// Draws the patient of `settings`.
    ///
    /// # Errors
    /// [`Error::Request`] when a setting is out of range.
    pub fn new(settings: Settings) -> Result<Phantom> {
        settings.check()?;
        let random = |purpose: Purpose| Random::of(&[settings.seed, purpose as u64]);
        let Size { width, height } = settings.size;
        let pixel_mm = detector::pixel_pitch(settings.field_mm, width.max(height));
        let arm = CArm::new(settings.primary_angle, settings.secondary_angle, pixel_mm, width, height);
        let heart = Heart::new(&mut random(Purpose::Heart));
        let end = settings.seconds(settings.frames);
        let start = settings.start_seconds.min(0.0);
        let rhythm =
            Rhythm::new(&mut random(Purpose::Rhythm), start, end.max(0.0), settings.heart_rate, settings.breathing_mm);
        let tree = Tree::new(&heart, settings.system, settings.stenoses, &mut random(Purpose::Tree));
        let phase = random(Purpose::Stream).between(0.0, 6.0);
        let bolus = Bolus::new(&rhythm, end, settings.system == System::Left, settings.streaming, phase);
        let anatomy = Anatomy::new(&mut random(Purpose::Anatomy), &heart, &arm, width, height, settings.texture);
        let catheter = Catheter::new(&mut random(Purpose::Catheter), &heart, tree.ostium());
        let mut painter = TubePainter::new(width, height);
        let scene = anatomy.depth(&arm, &rhythm.at(settings.start_seconds), &heart, &mut painter, width);
        let detector =
            Detector::new(&mut random(Purpose::Detector), &scene, width, height, pixel_mm, settings.dose_ngy);
        Ok(Phantom { settings, arm, heart, rhythm, tree, bolus, anatomy, catheter, detector })
    }

    /// What was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The narrowings and their truth.
    pub fn stenoses(&self) -> &[Stenosis] {
        &self.tree.stenoses
    }

    /// Times of the R waves within the clip, in seconds since the injection began.
    pub fn r_waves(&self) -> impl Iterator<Item = f64> {
        let clip = self.settings.start_seconds..self.settings.seconds(self.settings.frames);
        self.rhythm.r_waves().iter().copied().filter(move |r| clip.contains(r))
    }

    /// Name, parent's name, length and diameters of every vessel, in mm.
    pub fn vessels(&self) -> Vec<VesselTruth> {
        let vessels = &self.tree.vessels;
        vessels
            .iter()
            .map(|vessel| VesselTruth {
                name: vessel.name.clone(),
                parent: vessel.parent.map(|(parent, _)| vessels[parent].name.clone()),
                length_mm: vessel.length(),
                first_diameter_mm: 2.0 * vessel.points[0].radius,
                last_diameter_mm: 2.0 * vessel.points[vessel.points.len() - 1].radius,
            })
            .collect()
    }

    /// Draws frame `index`, counted from 0.
    ///
    /// # Errors
    /// [`Error::Request`] when the clip has fewer frames.
    pub fn frame(&self, index: usize) -> Result<PhantomFrame> {
        let Settings { frames, size, .. } = self.settings;
        if index >= frames {
            return Err(Error::Request(format!("the phantom has {frames} frames; there is no frame {index}")));
        }
        let moment = self.rhythm.at(self.settings.seconds(index));
        let mut painter = TubePainter::new(size.width, size.height);
        let mut depth = self.anatomy.depth(&self.arm, &moment, &self.heart, &mut painter, size.width);
        let mut mask = vec![0; size.area()];
        for index in 0..self.tree.vessels.len() {
            painter.paint(&self.lumen(index, &moment), &mut depth, Some(&mut mask));
        }
        let agent = self.settings.agent_attenuation * self.bolus.at_ostium(moment.seconds);
        for sections in self.catheter.sections(&self.arm, &moment, &self.heart, agent, self.settings.catheter_in_mask) {
            painter.paint(&sections, &mut depth, Some(&mut mask));
        }
        for (pixel, value) in mask.iter_mut().enumerate() {
            if !self.detector.sees(pixel) {
                *value = 0;
            }
        }
        let seed = self.settings.seed;
        let quanta = |row| Random::of(&[seed, Purpose::Quanta as u64, index as u64, row]);
        let frame = Frame::new(size, Colour::Grey, self.detector.expose(&depth, quanta))?;
        let stenoses = self.tree.stenoses.iter().map(|stenosis| {
            let (vessel, point) = stenosis.point;
            let on = self.arm.project(self.moved(self.tree.vessels[vessel].points[point].position, &moment));
            (on.x, on.y)
        });
        Ok(PhantomFrame { frame, mask: Mask { size, pixels: mask }, moment, stenoses: stenoses.collect() })
    }

    /// Where a point of the heart is at `moment`.
    fn moved(&self, point: glam::DVec3, moment: &Moment) -> glam::DVec3 {
        // The heart rests on the diaphragm and follows it by more than half.
        let breath = glam::DVec3::new(0.0, -moment.breath_mm, 0.25 * moment.breath_mm);
        self.heart.contracted(point, moment.contraction) + 0.6 * breath
    }

    /// A vessel's lumen on the detector at `moment`.
    fn lumen(&self, index: usize, moment: &Moment) -> Vec<Section> {
        let vessel = &self.tree.vessels[index];
        // Inside of its parent a branch has no lumen of its own.
        let inside = vessel.parent.map_or(0, |(parent, at)| {
            let origin = self.tree.vessels[parent].points[at];
            let outside = |p: &tree::Point| p.position.distance(origin.position) > 0.8 * origin.radius;
            vessel.points.iter().position(outside).unwrap_or(vessel.points.len())
        });
        let points = &vessel.points[inside..];
        let places: Vec<glam::DVec3> = points.iter().map(|p| self.moved(p.position, moment)).collect();
        points
            .iter()
            .enumerate()
            .map(|(i, point)| {
                let along = places[(i + 1).min(places.len() - 1)] - places[i.saturating_sub(1)];
                let concentration = self.bolus.at(point, moment.seconds);
                Section {
                    centre: self.arm.project(places[i]),
                    radius: point.radius,
                    attenuation: self.settings.agent_attenuation * concentration,
                    obliqueness: anatomy::obliqueness(&self.arm, places[i], along),
                    in_mask: concentration >= VISIBLE_CONCENTRATION,
                    uneven: self.bolus.streaming(point, moment.seconds, concentration),
                }
            })
            .collect()
    }
}

/// A vessel in numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct VesselTruth {
    /// Its name in the anatomy, or its parent's with a number.
    pub name: String,
    /// The vessel it leaves; none for the first.
    pub parent: Option<String>,
    /// From origin to end.
    pub length_mm: f64,
    /// Lumen at the origin.
    pub first_diameter_mm: f64,
    /// Lumen at the end.
    pub last_diameter_mm: f64,
}
