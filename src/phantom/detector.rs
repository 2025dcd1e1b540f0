//! From attenuation to an 8-bit frame: collimator, scatter, veiling glare, blur, quanta, display window.

use super::c_arm::CArm;
use crate::random::Random;
use image::{ImageBuffer, Luma};
use imageproc::filter::gaussian_blur_f32;

type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// X-ray quanta per mm^2 and nGy of air kerma, for the RQA5 spectrum (IEC 61267, 62220-1).
const QUANTA: f64 = 30.174;
/// Scatter behind the grid and veiling glare, as shares of the primary beam, and how far they reach, as shares of the
/// image's side.
const SCATTER: (f32, f32) = (0.22, 0.09);
const GLARE: (f32, f32) = (0.05, 0.3);
/// Blur before quanta are counted (focal spot, motion within the pulse) and after (scintillator, processing), as
/// standard deviations in mm on the detector.
const BLUR_BEFORE: f64 = 0.30;
const BLUR_AFTER: f64 = 0.30;
/// Electronic noise, in quanta.
const ELECTRONIC: f64 = 4.0;
/// Spread-out functions are computed on a grid this many times coarser.
const COARSE: u32 = 8;

/// The field that the collimator leaves open: a circle cut by shutters.
#[derive(Debug, Clone)]
struct Collimator {
    centre: (f64, f64),
    radius: f64,
    /// Left, top, right, bottom, in pixels.
    shutters: [f64; 4],
    penumbra: f64,
}

impl Collimator {
    fn new(random: &mut Random, width: usize, height: usize) -> Collimator {
        let (w, h) = (width as f64, height as f64);
        let mut inset = |side: f64| side * random.between(-0.03, 0.045);
        let shutters = [inset(w), inset(h), w - inset(w), h - inset(h)];
        let side = w.max(h);
        let centre = (w / 2.0, h / 2.0);
        Collimator { centre, radius: side * random.between(0.52, 0.62), shutters, penumbra: 0.006 * side }
    }

    /// The share of the beam that passes at a pixel.
    fn opening(&self, x: f64, y: f64) -> f32 {
        let [left, top, right, bottom] = self.shutters;
        let ease = |distance: f64| {
            let t = (distance / self.penumbra + 0.5).clamp(0.0, 1.0);
            t * t * (3.0 - 2.0 * t)
        };
        let from_centre = ((x - self.centre.0).powi(2) + (y - self.centre.1).powi(2)).sqrt();
        (ease(self.radius - from_centre) * ease(x - left) * ease(right - x) * ease(y - top) * ease(bottom - y)) as f32
    }
}

/// A detector, its exposure and its display, settled for one clip.
#[derive(Debug)]
pub struct Detector {
    width: u32,
    height: u32,
    opening: Vec<f32>,
    /// Attenuation at which a pixel gets the dose asked for.
    reference: f32,
    quanta: f64,
    blur: (f32, f32),
    /// Log signals shown black and white.
    window: (f32, f32),
}

/// Share of the field's pixels that are shown black or white at most.
const CLIPPED: f64 = 0.004;
/// Of the 8 bits, what the window's ends are shown as.
const BLACK: f32 = 26.0;
const WHITE: f32 = 248.0;
/// Log signal to brightness: below 1, shadows are lifted.
const GAMMA: f32 = 1.15;

impl Detector {
    /// Exposes automatically for `scene`, the attenuation without contrast agent: the field gets `dose` nGy a frame on
    /// average, and the display spans its log signal.
    pub fn new(random: &mut Random, scene: &[f32], width: usize, height: usize, pixel_mm: f64, dose: f64) -> Detector {
        let collimator = Collimator::new(random, width, height);
        let opening: Vec<f32> =
            (0..width * height).map(|i| collimator.opening((i % width) as f64, (i / width) as f64)).collect();
        let inside = |i: &usize| opening[*i] > 0.99;
        let field: Vec<f32> = (0..scene.len()).filter(inside).map(|i| scene[i]).collect();
        let passing = field.iter().map(|&d| f64::from(-d).exp()).sum::<f64>() / field.len().max(1) as f64;
        let reference = -passing.max(1e-12).ln() as f32;
        let blur = ((BLUR_BEFORE / pixel_mm) as f32, (BLUR_AFTER / pixel_mm) as f32);
        let quanta = QUANTA * dose * pixel_mm * pixel_mm;
        let (width, height) = (width as u32, height as u32);
        let mut detector = Detector { width, height, opening, reference, quanta, blur, window: (0.0, 1.0) };
        let signal = detector.signal(scene);
        let mut logs: Vec<f32> = (0..scene.len())
            .filter(|i| detector.opening[*i] > 0.99)
            .map(|i| signal.as_raw()[i].max(1e-6).ln())
            .collect();
        logs.sort_by(f32::total_cmp);
        if let (Some(last), true) = (logs.len().checked_sub(1), logs.len() > 1) {
            let at = |share: f64| logs[(share * last as f64) as usize];
            // Room below for the vessels, which are darker than what they lie on.
            detector.window = (at(CLIPPED) - 0.12, at(1.0 - CLIPPED).max(at(CLIPPED) + 0.1));
        }
        detector
    }

    /// What reaches the counting layer, in units of the reference, without noise.
    fn signal(&self, depth: &[f32]) -> Plane {
        let beam: Vec<f32> = depth.iter().zip(&self.opening).map(|(d, o)| o * (self.reference - d).exp()).collect();
        let (width, height) = (self.width, self.height);
        let mut plane = Plane::from_raw(width, height, beam).unwrap_or_else(|| Plane::new(width, height));
        let coarse = (width.div_ceil(COARSE).max(2), height.div_ceil(COARSE).max(2));
        let triangle = image::imageops::FilterType::Triangle;
        let small = image::imageops::resize(&plane, coarse.0, coarse.1, triangle);
        let side = coarse.0.max(coarse.1) as f32;
        let (scatter, glare) = (gaussian_blur_f32(&small, SCATTER.1 * side), gaussian_blur_f32(&small, GLARE.1 * side));
        let mut spread = scatter;
        for (s, g) in spread.iter_mut().zip(glare.iter()) {
            *s = SCATTER.0 * *s + GLARE.0 * g;
        }
        let spread = image::imageops::resize(&spread, width, height, triangle);
        plane = blurred(&plane, self.blur.0);
        for ((p, s), o) in plane.iter_mut().zip(spread.iter()).zip(&self.opening) {
            // The shutters stop what was scattered in the patient; glare arises behind them.
            *p += s * (0.15 + 0.85 * o);
        }
        plane
    }

    /// The frame, 8 bits a pixel; `random` gives each row of quanta its own sequence.
    pub fn expose(&self, depth: &[f32], random: impl Fn(u64) -> Random) -> Vec<u8> {
        let mut plane = self.signal(depth);
        for (y, row) in plane.chunks_exact_mut(self.width as usize).enumerate() {
            let mut random = random(y as u64);
            for value in row {
                let counted = random.poisson(self.quanta * f64::from(*value)) + ELECTRONIC * random.normal();
                *value = (counted / self.quanta) as f32;
            }
        }
        let plane = blurred(&plane, self.blur.1);
        let (black, white) = self.window;
        plane
            .iter()
            .zip(&self.opening)
            .map(|(signal, opening)| {
                let level = ((signal.max(1e-6).ln() - black) / (white - black)).max(0.0).powf(GAMMA);
                // Outside of the field the display is blanked.
                ((BLACK + (WHITE - BLACK) * level) * (0.04 + 0.96 * opening)).round().clamp(0.0, 255.0) as u8
            })
            .collect()
    }

    /// Whether a pixel lies in the field.
    pub fn sees(&self, pixel: usize) -> bool {
        self.opening[pixel] > 0.5
    }
}

fn blurred(plane: &Plane, deviation: f32) -> Plane {
    // Below this a pixel's neighbours get under a percent.
    if deviation < 0.3 { plane.clone() } else { gaussian_blur_f32(plane, deviation) }
}

/// The pitch of the pixels on a detector that sees `field_mm` at the isocentre across `side` pixels.
pub fn pixel_pitch(field_mm: f64, side: usize) -> f64 {
    field_mm / side as f64 * CArm::MAGNIFICATION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_falls_with_the_root_of_the_dose() {
        let scene: Vec<f32> = (0..128 * 128).map(|i| 3.0 + 0.6 * (i % 128) as f32 / 128.0).collect();
        let noise = |dose: f64| {
            let detector = Detector::new(&mut Random::new(1), &scene, 128, 128, 0.35, dose);
            let frames = [1, 2].map(|f| detector.expose(&scene, |row| Random::of(&[f, row])));
            let field: Vec<f64> = (0..scene.len())
                .filter(|&i| detector.opening[i] > 0.99)
                .map(|i| f64::from(frames[0][i]) - f64::from(frames[1][i]))
                .collect();
            (field.iter().map(|d| d * d).sum::<f64>() / field.len() as f64).sqrt()
        };
        let ratio = noise(50.0) / noise(450.0);
        assert!((2.5..3.5).contains(&ratio), "{ratio} where 3 is right");
    }

    #[test]
    fn beyond_the_collimator_it_is_dark() {
        let scene = vec![3.0; 128 * 128];
        let detector = Detector::new(&mut Random::new(1), &scene, 128, 128, 0.35, 100.0);
        let frame = detector.expose(&scene, |row| Random::of(&[row]));
        assert!(!detector.sees(0) && frame[0] < 8);
        assert!(detector.sees(64 * 128 + 64));
    }
}
