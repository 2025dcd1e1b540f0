//! The heart: a shape to lay vessels on, and how it moves.
//!
//! Patient coordinates in millimetres around the isocentre: x to the patient's left, y towards the head, z to the
//! front. The epicardium is a surface of revolution about the axis from base to apex; a point on or in it has an angle
//! about that axis, a depth along it and a lift, the share of the surface's radius.

use crate::random::Random;
use glam::DVec3;

/// Where the base lies on the axis, and how long the axis is, in mm.
const BASE: f64 = -38.0;
const LENGTH: f64 = 96.0;
/// Radius of the epicardium at its widest, in mm.
const RADIUS: f64 = 40.0;
/// From this share of the axis on the surface narrows towards the apex.
const WIDEST: f64 = 0.12;

/// A place on the heart, free of its pose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// About the axis in radians: 0 in front and above, a quarter turn to the patient's right and below.
    pub angle: f64,
    /// Along the axis: 0 at the base (the atrioventricular groove), 1 at the apex.
    pub depth: f64,
    /// Distance from the axis as a share of the epicardium's radius there.
    pub lift: f64,
}

/// A heart of one patient, at rest.
#[derive(Debug, Clone)]
pub struct Heart {
    centre: DVec3,
    axis: DVec3,
    front: DVec3,
    side: DVec3,
    scale: f64,
}

impl Heart {
    /// A heart of usual shape, its pose and size a little different for each patient.
    pub fn new(random: &mut Random) -> Heart {
        let mut jitter = |spread: f64| spread * (2.0 * random.uniform() - 1.0);
        let centre = DVec3::new(4.0 + jitter(7.0), jitter(7.0), jitter(6.0));
        let axis = (DVec3::new(0.62, -0.55, 0.56) + DVec3::new(jitter(0.1), jitter(0.1), jitter(0.1))).normalize();
        let front = DVec3::Z.reject_from_normalized(axis).normalize();
        Heart { centre, axis, front, side: axis.cross(front), scale: 1.0 + jitter(0.1) }
    }

    /// Radius of the epicardium at `depth`, in mm.
    pub fn radius(&self, depth: f64) -> f64 {
        let narrowing = ((depth - WIDEST) / (1.04 - WIDEST)).clamp(0.0, 1.0);
        self.scale * RADIUS * (1.0 - narrowing * narrowing).max(0.0).sqrt()
    }

    /// Where `place` is at rest, in mm.
    pub fn at(&self, place: Place) -> DVec3 {
        let along = self.scale * (BASE + LENGTH * place.depth);
        let out = place.lift * self.radius(place.depth);
        let (sin, cos) = place.angle.sin_cos();
        self.centre + along * self.axis + out * (cos * self.front + sin * self.side)
    }

    /// The length of the axis from base to apex, in mm.
    pub fn length(&self) -> f64 {
        self.scale * LENGTH
    }

    /// The middle of the ventricles, in mm, and the axis from base to apex.
    pub fn pose(&self) -> (DVec3, DVec3) {
        (self.centre + 0.05 * self.length() * self.axis, self.axis)
    }

    /// Where the aortic valve is, in mm.
    pub fn aortic_root(&self) -> DVec3 {
        self.at(Place { angle: (-12f64).to_radians(), depth: -0.06, lift: 0.3 })
    }

    /// Moves a point of the heart from rest to a contraction between 0 (end of diastole) and 1 (end of systole).
    ///
    /// The base descends towards the apex, walls move inwards, the apex twists against the base and the whole heart
    /// recoils a little.
    pub fn contracted(&self, point: DVec3, contraction: f64) -> DVec3 {
        let from_centre = point - self.centre;
        let along = from_centre.dot(self.axis);
        let out = from_centre - along * self.axis;
        let depth = (along / self.scale - BASE) / LENGTH;
        let descent = 12.0 * contraction * (1.0 - depth).clamp(-0.2, 1.3);
        let inwards = 1.0 - contraction * (0.09 + 0.09 * depth.clamp(0.0, 1.0));
        let (sin, cos) = (0.22 * contraction * (depth - 0.35)).sin_cos();
        let turned = cos * out + sin * self.axis.cross(out);
        let recoil = contraction * DVec3::new(1.5, -1.0, -2.0);
        self.centre + recoil + (along + descent) * self.axis + inwards * turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn at_rest_nothing_moves_and_in_systole_walls_and_base_do() {
        let heart = Heart::new(&mut Random::new(1));
        let point = heart.at(Place { angle: 1.0, depth: 0.1, lift: 1.0 });
        assert_abs_diff_eq!(heart.contracted(point, 0.0).distance(point), 0.0, epsilon = 1e-9);
        let moved = heart.contracted(point, 1.0).distance(point);
        assert!((5.0..25.0).contains(&moved), "{moved} mm");
    }

    #[test]
    fn the_axis_points_to_the_left_down_and_forwards() {
        let heart = Heart::new(&mut Random::new(5));
        let (base, apex) = [0.0, 1.0].map(|depth| heart.at(Place { angle: 0.0, depth, lift: 0.0 })).into();
        let axis: DVec3 = apex - base;
        assert!(axis.x > 0.0 && axis.y < 0.0 && axis.z > 0.0, "{axis}");
        assert_abs_diff_eq!(axis.length(), heart.length(), epsilon = 1e-9);
    }
}
