//! Everything in the way of the beam but coronary vessels: chest, lungs, spine, ribs, diaphragm, heart, catheter.
//!
//! Solids are ellipsoids, whose chords are exact for every angle of the C-arm; densities are differences to what they
//! lie in, as linear attenuation in 1/mm at the effective energy of about 60 keV.

use super::c_arm::CArm;
use super::heart::Heart;
use super::motion::Moment;
use super::texture::Texture;
use super::tube::{Section, TubePainter};
use crate::random::Random;
use glam::DVec3;

/// Water-like tissue, and how much less of it a lung holds.
const TISSUE: f64 = 0.0195;
const LUNG: f64 = -0.0150;

/// An ellipsoid with an attenuation of its own.
#[derive(Debug, Clone)]
struct Solid {
    centre: DVec3,
    axes: [DVec3; 3],
    density: f64,
    /// How thick it must be, in mm, to count in full: thinner rims fade, as borders of soft tissue do.
    rim: f64,
}

impl Solid {
    /// Along the patient's own axes.
    fn upright(centre: [f64; 3], half: [f64; 3], density: f64) -> Solid {
        Solid {
            centre: centre.into(),
            axes: [DVec3::X / half[0], DVec3::Y / half[1], DVec3::Z / half[2]],
            density,
            rim: 0.0,
        }
    }

    /// The same with a rim that fades.
    fn soft(self, rim: f64) -> Solid {
        Solid { rim, ..self }
    }

    /// What it adds along a ray.
    fn depth(&self, source: DVec3, direction: DVec3) -> f64 {
        let chord = self.chord(source, direction);
        if chord > 0.0 { self.density * chord * chord / (chord + self.rim) } else { 0.0 }
    }

    /// Long along `axis`, round across it.
    fn along(axis: DVec3, centre: DVec3, half_length: f64, radius: f64, density: f64) -> Solid {
        let across = axis.any_orthonormal_vector();
        Solid { centre, axes: [axis / half_length, across / radius, axis.cross(across) / radius], density, rim: 0.0 }
    }

    /// The way of a ray through it, in mm.
    fn chord(&self, source: DVec3, direction: DVec3) -> f64 {
        let inside = |v: DVec3| DVec3::new(v.dot(self.axes[0]), v.dot(self.axes[1]), v.dot(self.axes[2]));
        let (o, d) = (inside(source - self.centre), inside(direction));
        let (a, b, c) = (d.length_squared(), o.dot(d), o.length_squared() - 1.0);
        2.0 * (b * b - a * c).max(0.0).sqrt() / a
    }
}

/// A tube at rest in the patient.
#[derive(Debug, Clone)]
struct Cord {
    points: Vec<DVec3>,
    radii: Vec<f64>,
    density: f64,
}

impl Cord {
    fn sections(&self, arm: &CArm, shift: impl Fn(DVec3) -> DVec3, thickness: f64) -> Vec<Section> {
        let place = |i: usize| shift(self.points[i]);
        (0..self.points.len())
            .map(|i| {
                let (here, next) = (place(i), place((i + 1).min(self.points.len() - 1)));
                let before = place(i.saturating_sub(1));
                Section {
                    centre: arm.project(here),
                    radius: thickness * self.radii[i],
                    attenuation: self.density,
                    obliqueness: obliqueness(arm, here, next - before),
                    in_mask: false,
                    uneven: 0.0,
                }
            })
            .collect()
    }
}

/// How much longer the beam's way through a tube is where they are not at right angles; long ways end at the tube's
/// own curvature.
pub fn obliqueness(arm: &CArm, place: DVec3, direction: DVec3) -> f64 {
    let along = arm.along_beam(place, direction);
    1.0 / (1.0 - along * along).sqrt().max(0.4)
}

/// The chest around one heart.
#[derive(Debug)]
pub struct Anatomy {
    /// Attenuation of all that stands still.
    still: Vec<f32>,
    /// Structure too fine to model: lung markings, soft tissue, muscle.
    texture: Texture,
    lung: Vec<f32>,
    domes: Vec<Solid>,
    heart: Solid,
    lung_vessels: Vec<Cord>,
}

impl Anatomy {
    /// Draws the chest of one patient as `arm` sees it on `width` x `height` pixels.
    pub fn new(random: &mut Random, heart: &Heart, arm: &CArm, width: usize, height: usize, texture: f64) -> Anatomy {
        let mut jitter = |spread: f64| random.between(-spread, spread);
        let stature = 1.0 + jitter(0.12);
        let middle = -28.0 + jitter(6.0);
        let posterior = -92.0 * stature + jitter(5.0);
        let chest =
            Solid::upright([middle, -30.0, -25.0], [170.0 * stature, 420.0, (118.0 + jitter(12.0)) * stature], TISSUE);
        let lungs = [
            Solid::upright(
                [middle - 84.0, 10.0 + jitter(10.0), -28.0],
                [(66.0 + jitter(5.0)) * stature, 160.0, 92.0 * stature],
                LUNG,
            )
            .soft(50.0),
            Solid::upright(
                [middle + 92.0 + jitter(6.0), 10.0 + jitter(10.0), -32.0],
                [(62.0 + jitter(5.0)) * stature, 160.0, 90.0 * stature],
                LUNG,
            )
            .soft(50.0),
        ];
        let mut solids = vec![chest];
        // The column, its vertebrae, their arches, the sternum, the descending aorta.
        solids.push(Solid::upright([middle, 0.0, posterior], [20.0, 500.0, 17.0], 0.019).soft(16.0));
        let first = jitter(12.0);
        for k in -6..=6 {
            let y = first + 25.0 * f64::from(k);
            solids.push(Solid::upright([middle, y, posterior], [24.0, 15.5, 20.0], 0.009).soft(14.0));
            solids.push(Solid::upright([middle, y - 6.0, posterior - 32.0], [5.0, 11.0, 17.0], 0.014).soft(6.0));
        }
        solids.push(Solid::upright([middle, 10.0, 82.0 * stature], [17.0, 95.0, 5.5], 0.012).soft(6.0));
        solids.push(Solid::upright([middle + 22.0, 40.0, posterior + 18.0], [12.5, 400.0, 12.5], 0.010).soft(10.0));
        let root = heart.aortic_root();
        let ascending = (DVec3::new(-0.15, 1.0, 0.1)).normalize();
        solids.push(Solid::along(ascending, root + 32.0 * ascending, 62.0, 16.0, 0.008).soft(15.0));

        let right_dome = -50.0 + jitter(22.0);
        let left_dome = right_dome - 10.0 + jitter(8.0);
        let domes = vec![
            Solid::upright([middle - 72.0, right_dome - 90.0, -15.0], [78.0 * stature, 90.0, 105.0], 0.9 * -LUNG)
                .soft(10.0),
            Solid::upright([middle + 70.0, left_dome - 90.0, -20.0], [80.0 * stature, 90.0, 100.0], 0.9 * -LUNG)
                .soft(10.0),
        ];
        let (centre, axis) = heart.pose();
        let heart = Solid::along(axis, centre, 0.62 * heart.length(), 1.16 * heart.radius(0.1), 0.0105).soft(40.0);

        let ribs = ribs(random, middle, stature);
        let lung_vessels = lung_vessels(random, middle);
        let texture = Texture::new(random, width, height, texture);

        let (mut still, mut lung) = (vec![0.0f32; width * height], vec![0.0f32; width * height]);
        for y in 0..height {
            for x in 0..width {
                let (source, direction) = arm.ray(x as f64, y as f64);
                let through = |solid: &Solid| solid.depth(source, direction);
                let air: f64 = lungs.iter().map(through).sum();
                still[y * width + x] = (air + solids.iter().map(through).sum::<f64>()) as f32;
                lung[y * width + x] = (air / (100.0 * LUNG)) as f32;
            }
        }
        let mut painter = TubePainter::new(width, height);
        for rib in &ribs {
            // A shell: compact outside, spongy inside.
            painter.paint(&rib.sections(arm, |p| p, 1.0), &mut still, None);
            let core = Cord { density: -0.6 * rib.density, ..rib.clone() };
            painter.paint(&core.sections(arm, |p| p, 0.72), &mut still, None);
        }
        Anatomy { still, texture, lung, domes, heart, lung_vessels }
    }

    /// The attenuation along every pixel's ray at `moment`.
    pub fn depth(
        &self,
        arm: &CArm,
        moment: &Moment,
        beating: &Heart,
        painter: &mut TubePainter,
        width: usize,
    ) -> Vec<f32> {
        let breath = DVec3::new(0.0, -moment.breath_mm, 0.25 * moment.breath_mm);
        let mut heart = self.heart.clone();
        let moved = beating.contracted(heart.centre, moment.contraction) - heart.centre;
        heart.centre += 0.8 * moved + 0.6 * breath;
        let squeeze = 1.0 + 0.09 * moment.contraction;
        heart.axes = heart.axes.map(|axis| axis * squeeze);
        let domes: Vec<Solid> =
            self.domes.iter().map(|dome| Solid { centre: dome.centre + breath, ..dome.clone() }).collect();
        let mut depth = self.still.clone();
        let shift = breath.y * arm.project(DVec3::ZERO).scale;
        for (y, row) in depth.chunks_exact_mut(width).enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                let (source, direction) = arm.ray(x as f64, y as f64);
                let mut sum = heart.depth(source, direction);
                for dome in &domes {
                    sum += dome.depth(source, direction);
                }
                let airy = 0.35 + self.lung[y * width + x];
                *value += sum as f32 + airy * self.texture.at(x as f32, y as f32 + shift as f32);
            }
        }
        for vessel in &self.lung_vessels {
            // Lungs move most near the diaphragm.
            let follow = |p: DVec3| p + (0.5 - p.y / 200.0).clamp(0.1, 1.0) * breath;
            painter.paint(&vessel.sections(arm, follow, 1.0), &mut depth, None);
        }
        depth
    }
}

/// Ribs as arcs from the spine around the side to the front, falling on the way.
fn ribs(random: &mut Random, middle: f64, stature: f64) -> Vec<Cord> {
    let start = random.between(-12.0, 12.0);
    let fall = random.between(55.0, 80.0);
    let mut ribs = Vec::new();
    for k in -4..=6 {
        for side in [-1.0, 1.0] {
            let y = start + 27.0 * f64::from(k) + 30.0 + random.between(-2.0, 2.0);
            let points: Vec<DVec3> = (0..160)
                .map(|i| {
                    let turn = 0.12 + 2.35 * f64::from(i) / 159.0;
                    let x = middle + side * 142.0 * stature * turn.sin();
                    let z = -22.0 - 108.0 * stature * turn.cos();
                    DVec3::new(x, y - fall * (turn / 2.35).powf(1.2), z)
                })
                .collect();
            let radii = vec![5.2 * stature; points.len()];
            ribs.push(Cord { points, radii, density: 0.016 });
        }
    }
    ribs
}

/// Branching vessels of both lungs, from the roots outwards.
fn lung_vessels(random: &mut Random, middle: f64) -> Vec<Cord> {
    let mut cords = Vec::new();
    for side in [-1.0, 1.0] {
        for _ in 0..26 {
            let mut place = DVec3::new(
                middle + side * random.between(28.0, 60.0),
                random.between(-20.0, 55.0),
                random.between(-75.0, 10.0),
            );
            let towards =
                DVec3::new(side * random.between(0.1, 1.0), random.between(-1.2, 0.7), random.between(-0.8, 0.9));
            let mut direction = towards.normalize();
            let length = random.between(30.0, 90.0);
            let thick = random.between(0.7, 2.6);
            let (mut points, mut radii) = (Vec::new(), Vec::new());
            for step in 0..length as usize {
                let wobble = DVec3::new(random.normal(), random.normal(), random.normal());
                direction = (direction + 0.07 * wobble).normalize();
                points.push(place);
                radii.push(thick * (1.0 - 0.75 * step as f64 / length));
                place += direction;
            }
            cords.push(Cord { points, radii, density: 0.012 });
        }
    }
    cords
}

/// A catheter through the aorta with its tip in the ostium.
#[derive(Debug)]
pub struct Catheter {
    /// From the tip upwards, at rest.
    points: Vec<DVec3>,
}

/// Outer radius of a 6 French catheter and of its lumen, in mm.
const OUTER: f64 = 1.0;
const LUMEN: f64 = 0.72;
/// What the wall attenuates, in 1/mm.
const WALL: f64 = 0.14;

impl Catheter {
    /// A catheter to `ostium`.
    pub fn new(random: &mut Random, heart: &Heart, ostium: DVec3) -> Catheter {
        let root = heart.aortic_root();
        let mut jitter = |spread: f64| random.between(-spread, spread);
        let out = (root - ostium).normalize_or_zero();
        let wall = root + 14.0 * out + DVec3::new(jitter(2.0), 20.0 + jitter(5.0), jitter(2.0));
        let controls = [
            ostium - 3.0 * out,
            ostium + 5.0 * out + 1.0 * DVec3::Y,
            root + 4.0 * out + (4.0 + jitter(3.0)) * DVec3::Y,
            wall,
            wall + DVec3::new(-3.0 + jitter(4.0), 32.0, -3.0),
            wall + DVec3::new(-2.0 + jitter(6.0), 68.0, -14.0),
            wall + DVec3::new(6.0 + jitter(8.0), 105.0, -34.0),
            wall + DVec3::new(14.0, 130.0, -60.0),
        ];
        let at = |i: usize| controls[i.min(controls.len() - 1)];
        let mut points = Vec::new();
        for i in 0..controls.len() - 1 {
            let (a, b, c, d) = (at(i.saturating_sub(1)), at(i), at(i + 1), at(i + 2));
            let steps = (b.distance(c) / 0.7).ceil() as usize;
            for step in 0..steps {
                let t = step as f64 / steps as f64;
                points
                    .push(b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a))));
            }
        }
        Catheter { points }
    }

    /// Where it is at `moment`, filled with agent that attenuates `agent` per mm: wall and lumen as tubes.
    pub fn sections(&self, arm: &CArm, moment: &Moment, heart: &Heart, agent: f64, in_mask: bool) -> [Vec<Section>; 2] {
        let place = |i: usize| {
            let rest = self.points[i];
            let follow = (-(i as f64) * 0.7 / 28.0).exp();
            rest + follow * (heart.contracted(rest, moment.contraction) - rest)
                - 0.4 * follow * moment.breath_mm * DVec3::Y
        };
        let tube = |radius: f64, attenuation: f64| {
            (0..self.points.len())
                .map(|i| {
                    let here = place(i);
                    let along = place((i + 1).min(self.points.len() - 1)) - place(i.saturating_sub(1));
                    let obliqueness = obliqueness(arm, here, along);
                    Section { centre: arm.project(here), radius, attenuation, obliqueness, in_mask, uneven: 0.0 }
                })
                .collect()
        };
        [tube(OUTER, WALL), tube(LUMEN, agent - WALL)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn chords_of_a_sphere_are_exact() {
        let ball = Solid::upright([0.0, 0.0, 0.0], [10.0, 10.0, 10.0], 1.0);
        for offset in [0.0, 3.0, 6.0, 9.9] {
            let chord = ball.chord(DVec3::new(offset, 0.0, -500.0), DVec3::Z);
            assert_abs_diff_eq!(chord, 2.0 * (100.0 - offset * offset).sqrt(), epsilon = 1e-9);
        }
        assert_eq!(ball.chord(DVec3::new(11.0, 0.0, -500.0), DVec3::Z), 0.0);
    }

    #[test]
    fn an_ellipsoid_along_an_axis_is_long_that_way() {
        let axis = DVec3::new(1.0, 2.0, -2.0).normalize();
        let solid = Solid::along(axis, DVec3::ONE, 30.0, 5.0, 1.0);
        assert_abs_diff_eq!(solid.chord(DVec3::ONE - 100.0 * axis, axis), 60.0, epsilon = 1e-9);
        let across = axis.any_orthonormal_vector();
        assert_abs_diff_eq!(solid.chord(DVec3::ONE - 100.0 * across, across), 10.0, epsilon = 1e-9);
    }
}
