//! The C-arm: where a point of the patient falls on the detector.

use glam::DVec3;

/// Distances of source to detector and source to isocentre, in mm.
const SOURCE_TO_DETECTOR: f64 = 1050.0;
const SOURCE_TO_ISOCENTRE: f64 = 765.0;

/// A C-arm at its angles with a detector of square pixels.
#[derive(Debug, Clone)]
pub struct CArm {
    source: DVec3,
    right: DVec3,
    up: DVec3,
    towards_detector: DVec3,
    pixel_mm: f64,
    centre: (f64, f64),
}

/// A point or tube on the detector, in pixels from the middle of the pixel at the top left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnDetector {
    /// To the right.
    pub x: f64,
    /// Down.
    pub y: f64,
    /// Pixels per mm at the point's distance from the source.
    pub scale: f64,
}

impl CArm {
    /// How much larger than life things at the isocentre appear on the detector.
    pub const MAGNIFICATION: f64 = SOURCE_TO_DETECTOR / SOURCE_TO_ISOCENTRE;

    /// A C-arm seen as DICOM does: `primary` degrees positive towards the patient's left (LAO), `secondary` towards the
    /// head (cranial); `pixel_mm` is the pixels' pitch on the detector, of `width` x `height` pixels.
    pub fn new(primary: f64, secondary: f64, pixel_mm: f64, width: usize, height: usize) -> CArm {
        let (a, c) = (primary.to_radians(), secondary.to_radians());
        let towards_detector = DVec3::new(a.sin() * c.cos(), c.sin(), a.cos() * c.cos());
        let right = DVec3::new(a.cos(), 0.0, -a.sin());
        CArm {
            source: -SOURCE_TO_ISOCENTRE * towards_detector,
            right,
            up: towards_detector.cross(right),
            towards_detector,
            pixel_mm,
            centre: ((width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0),
        }
    }

    /// Where `point` falls.
    pub fn project(&self, point: DVec3) -> OnDetector {
        let from_source = point - self.source;
        let scale = SOURCE_TO_DETECTOR / from_source.dot(self.towards_detector) / self.pixel_mm;
        OnDetector {
            x: self.centre.0 + scale * from_source.dot(self.right),
            y: self.centre.1 - scale * from_source.dot(self.up),
            scale,
        }
    }

    /// The source's place and the unit direction from it to the middle of a pixel.
    pub fn ray(&self, x: f64, y: f64) -> (DVec3, DVec3) {
        let right = (x - self.centre.0) * self.pixel_mm * self.right;
        let up = (self.centre.1 - y) * self.pixel_mm * self.up;
        (self.source, (SOURCE_TO_DETECTOR * self.towards_detector + right + up).normalize())
    }

    /// How far out of the detector's plane a direction points: 1 along the beam, 0 across.
    pub fn along_beam(&self, point: DVec3, direction: DVec3) -> f64 {
        (point - self.source).normalize().dot(direction.normalize_or_zero()).abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn from_the_front_the_patients_left_is_on_the_right_and_the_head_is_up() {
        let arm = CArm::new(0.0, 0.0, 0.35, 512, 512);
        let middle = arm.project(DVec3::ZERO);
        assert_abs_diff_eq!(middle.x, 255.5);
        assert_abs_diff_eq!(middle.y, 255.5);
        assert!(arm.project(10.0 * DVec3::X).x > 260.0);
        assert!(arm.project(10.0 * DVec3::Y).y < 250.0);
        assert_abs_diff_eq!(middle.scale, 1050.0 / 765.0 / 0.35, epsilon = 1e-9);
    }

    #[test]
    fn what_lies_nearer_to_the_source_is_larger() {
        let arm = CArm::new(0.0, 0.0, 0.35, 512, 512);
        assert!(arm.project(-50.0 * DVec3::Z).scale > arm.project(50.0 * DVec3::Z).scale);
    }

    #[test]
    fn rays_hit_what_was_projected() {
        let arm = CArm::new(-32.0, 14.0, 0.35, 512, 400);
        let point = DVec3::new(20.0, -31.0, 12.0);
        let on = arm.project(point);
        let (source, direction) = arm.ray(on.x, on.y);
        assert_abs_diff_eq!((point - source).normalize().distance(direction), 0.0, epsilon = 1e-9);
    }
}
