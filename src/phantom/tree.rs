//! The coronary tree at rest: vessels as curves on the heart with a lumen of their own at every point.
//!
//! Courses follow the anatomy (right: RCA, posterior descending and posterolateral branch, marginals; left: main stem,
//! LAD with diagonals and septals, circumflex with obtuse marginals); diameters are those of normal adults (Dodge et al.,
//! Circulation 86:232, 1992); side branches take after Murray's law. Everything else is drawn from the seed.

use super::heart::{Heart, Place};
use crate::random::Random;
use glam::DVec3;
use std::f64::consts::TAU;

/// Which coronary arteries are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The left main stem with LAD and circumflex.
    Left,
    /// The right coronary artery.
    Right,
}

/// Between two points of a vessel, in mm.
const STEP: f64 = 0.5;
/// No vessel gets thinner than this, in mm of diameter.
const THINNEST: f64 = 0.8;

/// A point of a vessel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where it is at rest, in mm.
    pub position: DVec3,
    /// Radius of the lumen, in mm, stenoses included.
    pub radius: f64,
    /// Way from the ostium along the lumen, in mm.
    pub path: f64,
    /// Time blood takes from the ostium at mean flow, in s.
    pub transit: f64,
}

/// A vessel from its origin to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Vessel {
    /// Its name in the anatomy, or that of its parent with a number.
    pub name: String,
    /// The vessel it leaves, by index, and the point where.
    pub parent: Option<(usize, usize)>,
    /// From origin to end, at least two.
    pub points: Vec<Point>,
    /// The same in the heart's own coordinates.
    places: Vec<Place>,
}

impl Vessel {
    /// Length in mm.
    pub fn length(&self) -> f64 {
        self.points[self.points.len() - 1].path - self.points[0].path
    }
}

/// A narrowing and its truth.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Stenosis {
    /// The vessel's name.
    pub vessel: String,
    /// From the vessel's origin to the narrowest point, in mm.
    pub position_mm: f64,
    /// From shoulder to shoulder, in mm.
    pub length_mm: f64,
    /// The lumen's diameter there without the stenosis, in mm.
    pub reference_diameter_mm: f64,
    /// The lumen's diameter at the narrowest point, in mm.
    pub minimal_diameter_mm: f64,
    /// What the narrowing takes of the diameter, in percent.
    pub diameter_narrowing_percent: f64,
    /// What it takes of the area, in percent.
    pub area_narrowing_percent: f64,
    /// Index of the vessel and of its narrowest point.
    #[serde(skip)]
    pub point: (usize, usize),
}

/// A coronary system.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Parents before their branches; the first begins at the ostium.
    pub vessels: Vec<Vessel>,
    /// The narrowings, in the order they were made.
    pub stenoses: Vec<Stenosis>,
}

/// The course of a named vessel: angle in degrees, depth, lift.
type Course = &'static [(f64, f64, f64)];

const RCA: Course = &[
    (-14.0, -0.05, 0.48),
    (-6.0, 0.0, 0.7),
    (6.0, 0.02, 0.98),
    (30.0, 0.03, 1.12),
    (60.0, 0.05, 1.17),
    (95.0, 0.06, 1.15),
    (130.0, 0.06, 1.09),
    (158.0, 0.07, 1.03),
    (174.0, 0.08, 1.0),
];
const POSTERIOR_DESCENDING: Course =
    &[(178.0, 0.14, 1.0), (181.0, 0.28, 1.0), (183.0, 0.45, 1.0), (186.0, 0.62, 1.0), (188.0, 0.76, 1.0)];
const POSTEROLATERAL: Course = &[(186.0, 0.05, 1.02), (198.0, 0.1, 1.01), (210.0, 0.24, 1.0), (218.0, 0.42, 1.0)];
const MAIN_STEM: Course = &[(-24.0, -0.04, 0.55), (-31.0, -0.02, 0.7), (-37.0, 0.0, 0.84), (-40.0, 0.02, 0.94)];
const LAD: Course = &[
    (-39.0, 0.07, 0.99),
    (-36.0, 0.17, 1.03),
    (-31.0, 0.32, 1.02),
    (-25.0, 0.5, 1.01),
    (-19.0, 0.68, 1.0),
    (-14.0, 0.84, 1.0),
    (-8.0, 0.95, 1.0),
];
const CIRCUMFLEX: Course = &[
    (-54.0, 0.02, 1.02),
    (-74.0, 0.04, 1.1),
    (-98.0, 0.06, 1.12),
    (-122.0, 0.07, 1.08),
    (-146.0, 0.09, 1.03),
    (-158.0, 0.16, 1.0),
];

/// A side branch that wanders over the heart instead of following a fixed course.
struct Wandering {
    /// Share of the parent's points where it leaves.
    at: f64,
    /// Heading when it leaves and where it tends to: degrees from the apex, positive towards greater angles.
    heading: (f64, f64),
    length: f64,
    diameter: f64,
    /// How fast it dives under the surface: change of lift per mm.
    dive: f64,
    /// Twigs of its own.
    twigs: usize,
}

impl Tree {
    /// The tree of one patient with `stenoses` narrowings.
    pub fn new(heart: &Heart, system: System, stenoses: usize, random: &mut Random) -> Tree {
        let mut grower = Grower { heart, random, vessels: Vec::new() };
        match system {
            System::Right => grower.right(),
            System::Left => grower.left(),
        }
        let mut tree = Tree { vessels: grower.vessels, stenoses: Vec::new() };
        for _ in 0..stenoses {
            tree.narrow(random);
        }
        tree.time_transits();
        tree
    }

    /// Where the catheter enters, at rest.
    pub fn ostium(&self) -> DVec3 {
        self.vessels[0].points[0].position
    }

    /// Adds a narrowing of 35 to 85 % somewhere in a vessel large enough to matter, apart from those there are.
    fn narrow(&mut self, random: &mut Random) {
        const ATTEMPTS: usize = 200;
        for _ in 0..ATTEMPTS {
            let vessel = (random.uniform() * self.vessels.len() as f64) as usize;
            let points = &self.vessels[vessel].points;
            let middle = (random.between(0.15, 0.85) * points.len() as f64) as usize;
            let half_length = random.between(2.5, 7.0);
            let share = random.between(0.35, 0.85);
            let reference = points[middle].radius;
            let inside = |p: &Point| (p.path - points[middle].path).abs() < half_length;
            let whole = points[middle].path - points[0].path > half_length + 3.0
                && points[points.len() - 1].path - points[middle].path > half_length + 3.0;
            let taken = self.stenoses.iter().any(|other| {
                other.point.0 == vessel
                    && (points[other.point.1].path - points[middle].path).abs() < other.length_mm / 2.0 + half_length
            });
            if 2.0 * reference < 1.5 || !whole || taken {
                continue;
            }
            let narrowed: Vec<(usize, f64)> = (0..points.len())
                .filter(|&i| inside(&points[i]))
                .map(|i| {
                    let x = (points[i].path - points[middle].path) / half_length;
                    (i, points[i].radius * (1.0 - share * (0.5 + 0.5 * (TAU / 2.0 * x).cos())))
                })
                .collect();
            let minimal = reference * (1.0 - share);
            self.stenoses.push(Stenosis {
                vessel: self.vessels[vessel].name.clone(),
                position_mm: points[middle].path - points[0].path,
                length_mm: 2.0 * half_length,
                reference_diameter_mm: 2.0 * reference,
                minimal_diameter_mm: 2.0 * minimal,
                diameter_narrowing_percent: 100.0 * share,
                area_narrowing_percent: 100.0 * (1.0 - (1.0 - share) * (1.0 - share)),
                point: (vessel, middle),
            });
            for (i, radius) in narrowed {
                self.vessels[vessel].points[i].radius = radius;
            }
            return;
        }
    }

    /// Blood slows down as vessels narrow towards the periphery.
    fn time_transits(&mut self) {
        /// Mean speed in a lumen of 4 mm, in mm/s, and the power of the diameter it falls with.
        const SPEED: f64 = 190.0;
        const POWER: f64 = 0.6;
        for index in 0..self.vessels.len() {
            let start = self.vessels[index].parent.map_or(0.0, |(vessel, at)| self.vessels[vessel].points[at].transit);
            let points = &mut self.vessels[index].points;
            points[0].transit = start;
            for i in 1..points.len() {
                let speed = SPEED * (points[i].radius / 2.0).powf(POWER);
                points[i].transit = points[i - 1].transit + (points[i].path - points[i - 1].path) / speed;
            }
        }
    }
}

struct Grower<'a> {
    heart: &'a Heart,
    random: &'a mut Random,
    vessels: Vec<Vessel>,
}

impl Grower<'_> {
    fn right(&mut self) {
        let caliber = self.random.between(0.85, 1.15);
        let rca = self.course("RCA", None, RCA, (4.0 * caliber, 3.1 * caliber), 1.0);
        let end = self.vessels[rca].points.len() - 1;
        let dominance = self.random.between(0.8, 1.2);
        let pda =
            self.course("PDA", Some((rca, end)), POSTERIOR_DESCENDING, (2.5 * caliber * dominance, 1.4 * caliber), 1.4);
        let plv = self.course("PLV", Some((rca, end)), POSTEROLATERAL, (2.5 * caliber, 1.4 * caliber), 1.4);
        self.wander(
            rca,
            "conus",
            Wandering { at: 0.14, heading: (-35.0, -60.0), length: 38.0, diameter: 1.2, dive: 0.0, twigs: 1 },
        );
        self.wander(
            rca,
            "SA node",
            Wandering { at: 0.17, heading: (165.0, 200.0), length: 42.0, diameter: 1.1, dive: -0.004, twigs: 1 },
        );
        for (name, at) in [("RV1", 0.3), ("RV2", 0.42), ("AM1", 0.55), ("AM2", 0.66)] {
            let at = at + self.random.between(-0.04, 0.04);
            let heading = (self.random.between(-60.0, -15.0), self.random.between(-35.0, 15.0));
            let length = self.random.between(25.0, 60.0);
            let diameter = caliber * self.random.between(1.3, 2.2);
            self.wander(rca, name, Wandering { at, heading, length, diameter, dive: 0.0, twigs: 1 });
        }
        for parent in [pda, plv] {
            self.twigs(parent, 2);
        }
        self.twigs(rca, 2);
    }

    fn left(&mut self) {
        let caliber = self.random.between(0.85, 1.15);
        let stem = self.course("LM", None, MAIN_STEM, (4.5 * caliber, 4.2 * caliber), 0.5);
        let end = self.vessels[stem].points.len() - 1;
        let lad = self.course("LAD", Some((stem, end)), LAD, (3.6 * caliber, 1.3 * caliber), 1.0);
        let lcx = self.course("LCx", Some((stem, end)), CIRCUMFLEX, (3.3 * caliber, 1.5 * caliber), 1.0);
        for (name, at) in [("D1", 0.2), ("D2", 0.38), ("D3", 0.56)] {
            let at = at + self.random.between(-0.05, 0.05);
            let heading = (self.random.between(-65.0, -35.0), self.random.between(-35.0, -10.0));
            let length = self.random.between(35.0, 70.0);
            let diameter = caliber * self.random.between(1.6, 2.5);
            self.wander(lad, name, Wandering { at, heading, length, diameter, dive: 0.0, twigs: 1 });
        }
        for (name, at) in [("S1", 0.16), ("S2", 0.27), ("S3", 0.4), ("S4", 0.52), ("S5", 0.64)] {
            let heading = (self.random.between(10.0, 40.0), self.random.between(0.0, 30.0));
            let length = self.random.between(18.0, 36.0);
            let diameter = self.random.between(0.85, 1.25);
            self.wander(lad, name, Wandering { at, heading, length, diameter, dive: 0.016, twigs: 0 });
        }
        for (name, at) in [("OM1", 0.28), ("OM2", 0.5), ("OM3", 0.72)] {
            let at = at + self.random.between(-0.05, 0.05);
            let heading = (self.random.between(-50.0, -10.0), self.random.between(-20.0, 20.0));
            let length = self.random.between(35.0, 70.0);
            let diameter = caliber * self.random.between(1.7, 2.7);
            self.wander(lcx, name, Wandering { at, heading, length, diameter, dive: 0.0, twigs: 1 });
        }
        self.twigs(lad, 2);
        self.twigs(lcx, 2);
    }

    /// A vessel along a fixed course, jittered and made tortuous; its points' index in `vessels`.
    fn course(
        &mut self,
        name: &str,
        parent: Option<(usize, usize)>,
        course: Course,
        diameters: (f64, f64),
        tortuosity: f64,
    ) -> usize {
        let origin = parent.map(|(vessel, at)| self.vessels[vessel].places[at]);
        let mut controls: Vec<Place> = origin.into_iter().collect();
        for &(degrees, depth, lift) in course {
            // The first point of all, the ostium, stays at the aorta.
            let free = if controls.is_empty() { 0.3 } else { 1.0 };
            controls.push(Place {
                angle: (degrees + free * 3.0 * self.random.normal()).to_radians(),
                depth: depth + free * 0.012 * self.random.normal(),
                lift: lift + free * 0.012 * self.random.normal(),
            });
        }
        let waves = Waves::new(self.random, tortuosity);
        let mut places = Vec::new();
        for segment in 0..controls.len() - 1 {
            let at = |i: usize| controls[i.min(controls.len() - 1)];
            let (a, b, c, d) = (at(segment.saturating_sub(1)), at(segment), at(segment + 1), at(segment + 2));
            let length = self.heart.at(b).distance(self.heart.at(c));
            let steps = (length / (0.5 * STEP)).ceil().max(1.0) as usize;
            for step in 0..steps {
                places.push(spline([a, b, c, d], step as f64 / steps as f64));
            }
        }
        places.extend(controls.last());
        self.finish(name, parent, places, &waves, diameters)
    }

    /// A vessel that wanders over the surface from a point of `parent`.
    fn wander(&mut self, parent: usize, name: &str, branch: Wandering) -> usize {
        let Wandering { at, heading: (from, to), length, diameter, dive, twigs } = branch;
        let last = self.vessels[parent].points.len() - 1;
        let at = ((at * last as f64) as usize).min(last);
        let mut place = self.vessels[parent].places[at];
        let (mut heading, target) = (from.to_radians(), to.to_radians());
        let mut turning = 0.0;
        let mut places = vec![place];
        for _ in 0..(length / (0.5 * STEP)) as usize {
            // A heading that meanders around one that turns slowly towards its target.
            turning += 0.5 * STEP * (-0.1 * turning + 0.075 * self.random.normal());
            heading += 0.5 * STEP * (0.045 * (target - heading) + turning);
            let radius = self.heart.radius(place.depth).max(4.0);
            place.depth += 0.5 * STEP * heading.cos() / self.heart.length();
            place.angle += 0.5 * STEP * heading.sin() / radius;
            place.lift = (place.lift - dive * 0.5 * STEP).clamp(0.3, 1.25);
            if place.depth > 0.93 || place.depth < -0.35 {
                break;
            }
            places.push(place);
        }
        if places.len() < 8 {
            return parent;
        }
        let waves = Waves::new(self.random, 1.1);
        // A branch is thinner than what it leaves, and Murray's law leaves the rest of the parent as it is.
        let diameter = diameter.min(1.8 * self.vessels[parent].points[at].radius);
        let vessel = self.finish(name, Some((parent, at)), places, &waves, (diameter, 0.55 * diameter));
        self.twigs(vessel, twigs);
        vessel
    }

    /// Up to `count` short thin branches along a vessel.
    fn twigs(&mut self, parent: usize, count: usize) {
        for number in 1..=count {
            let at = (number as f64 - 0.5 + self.random.between(-0.3, 0.3)) / count as f64;
            let along = self.vessels[parent].places.len() as f64;
            let near = self.vessels[parent].places[(at * (along - 2.0)).max(0.0) as usize];
            let next = self.vessels[parent].places[(at * (along - 2.0)).max(0.0) as usize + 1];
            let across = (next.angle - near.angle) * self.heart.radius(near.depth).max(4.0);
            let course = across.atan2((next.depth - near.depth) * self.heart.length()).to_degrees();
            let side = if self.random.uniform() < 0.5 { -1.0 } else { 1.0 };
            let from = course + side * self.random.between(35.0, 70.0);
            let heading = (from, from - side * self.random.between(-10.0, 50.0));
            let length = self.random.between(10.0, 30.0);
            let diameter = self.random.between(0.85, 1.3);
            let name = format!("{}.{number}", self.vessels[parent].name);
            self.wander(parent, &name, Wandering { at, heading, length, diameter, dive: 0.0, twigs: 0 });
        }
    }

    /// Displaces by `waves`, samples evenly and gives every point its lumen.
    fn finish(
        &mut self,
        name: &str,
        parent: Option<(usize, usize)>,
        places: Vec<Place>,
        waves: &Waves,
        (first, last): (f64, f64),
    ) -> usize {
        let rest: Vec<DVec3> = places.iter().map(|&place| self.heart.at(place)).collect();
        let total: f64 = rest.windows(2).map(|pair| pair[0].distance(pair[1])).sum();
        let start = parent.map_or(0.0, |(vessel, at)| self.vessels[vessel].points[at].path);
        // Where the parent's own tortuosity has taken the origin; the branch finds its own way from there.
        let carried = parent.map_or(DVec3::ZERO, |(vessel, at)| self.vessels[vessel].points[at].position - rest[0]);
        let mut way = 0.0;
        let mut bent = Vec::with_capacity(rest.len());
        for (i, &point) in rest.iter().enumerate() {
            let next = rest[(i + 1).min(rest.len() - 1)];
            let before = rest[i.saturating_sub(1)];
            let along = (next - before).normalize_or_zero();
            let (_, axis) = self.heart.pose();
            let across = along.cross(axis).normalize_or(along.any_orthonormal_vector());
            let (a, b) = waves.at(way);
            let fade_in = (way / 8.0).min(1.0);
            let wave = fade_in * (a * across + 0.6 * b * along.cross(across));
            bent.push(point + (-way / 15.0).exp() * carried + wave);
            way += next.distance(point);
        }
        let irregular = Waves::new(self.random, 1.0);
        let lumen = |way: f64| {
            let share = (way / total).min(1.0);
            let taper = first + (last - first) * share;
            // Lumens vary by a few percent along the way, and ends run thin.
            let wall = 1.0 + 0.03 * irregular.at(way).0;
            let end = 1.0 - ((share - 0.9) / 0.1).max(0.0) * if last < 1.4 { 0.35 } else { 0.0 };
            (taper * wall * end).max(THINNEST) / 2.0
        };
        let mut points = Vec::new();
        let mut kept = Vec::new();
        let (mut way, mut due) = (0.0, 0.0);
        for i in 0..bent.len() - 1 {
            let length = bent[i].distance(bent[i + 1]);
            while due <= way + length && length > 0.0 {
                let t = ((due - way) / length).clamp(0.0, 1.0);
                let position = bent[i].lerp(bent[i + 1], t);
                points.push(Point { position, radius: lumen(due), path: start + due, transit: 0.0 });
                kept.push(between(places[i], places[i + 1], t));
                due += STEP;
            }
            way += length;
        }
        self.vessels.push(Vessel { name: name.to_owned(), parent, points, places: kept });
        self.vessels.len() - 1
    }
}

/// Tortuosity: two sums of sine waves of different lengths, in mm.
struct Waves([[(f64, f64, f64); 3]; 2]);

impl Waves {
    fn new(random: &mut Random, amount: f64) -> Waves {
        let mut one = || {
            [(38.0, 1.3), (19.0, 0.55), (9.0, 0.22)].map(|(length, amplitude)| {
                let length: f64 = length * random.between(0.75, 1.3);
                (TAU / length, amount * amplitude * random.between(0.4, 1.4), TAU * random.uniform())
            })
        };
        Waves([one(), one()])
    }

    fn at(&self, way: f64) -> (f64, f64) {
        let sum = |waves: &[(f64, f64, f64); 3]| waves.iter().map(|&(f, a, p)| a * ((f * way + p).sin())).sum();
        (sum(&self.0[0]), sum(&self.0[1]))
    }
}

/// A share `t` of the way from one place to another.
fn between(a: Place, b: Place, t: f64) -> Place {
    let mix = |a: f64, b: f64| a + t * (b - a);
    Place { angle: mix(a.angle, b.angle), depth: mix(a.depth, b.depth), lift: mix(a.lift, b.lift) }
}

/// Catmull-Rom between the middle two.
fn spline([a, b, c, d]: [Place; 4], t: f64) -> Place {
    let blend = |a: f64, b: f64, c: f64, d: f64| {
        b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
    };
    Place {
        angle: blend(a.angle, b.angle, c.angle, d.angle),
        depth: blend(a.depth, b.depth, c.depth, d.depth),
        lift: blend(a.lift, b.lift, c.lift, d.lift),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(system: System, seed: u64, stenoses: usize) -> Tree {
        let mut random = Random::new(seed);
        let heart = Heart::new(&mut random);
        Tree::new(&heart, system, stenoses, &mut random)
    }

    #[test]
    fn branches_begin_on_their_parents_and_points_are_evenly_spaced() {
        for seed in 0..10 {
            for system in [System::Left, System::Right] {
                let tree = tree(system, seed, 2);
                for (index, vessel) in tree.vessels.iter().enumerate() {
                    if let Some((parent, at)) = vessel.parent {
                        assert!(parent < index);
                        let origin = tree.vessels[parent].points[at];
                        assert!(origin.position.distance(vessel.points[0].position) < 1e-6, "{}", vessel.name);
                        assert!(vessel.points[0].transit >= origin.transit);
                    }
                    assert!(vessel.points.len() >= 2);
                    for pair in vessel.points.windows(2) {
                        let step = pair[0].position.distance(pair[1].position);
                        assert!(step > 0.2 && step < 0.501, "{} steps {step} mm", vessel.name);
                        assert!(pair[1].transit > pair[0].transit);
                    }
                    assert!(vessel.points.iter().all(|p| (0.05..3.0).contains(&p.radius)));
                }
            }
        }
    }

    #[test]
    fn the_right_artery_is_as_long_and_as_wide_as_people_have_it() {
        let tree = tree(System::Right, 4, 0);
        let rca = &tree.vessels[0];
        assert_eq!(rca.name, "RCA");
        assert!((90.0..190.0).contains(&rca.length()), "{} mm", rca.length());
        assert!(rca.points[0].radius > rca.points[rca.points.len() - 1].radius);
    }

    #[test]
    fn stenoses_are_as_narrow_as_they_say() {
        let tree = tree(System::Left, 11, 3);
        assert_eq!(tree.stenoses.len(), 3);
        for stenosis in &tree.stenoses {
            let (vessel, point) = stenosis.point;
            let narrowest = 2.0 * tree.vessels[vessel].points[point].radius;
            assert!((narrowest - stenosis.minimal_diameter_mm).abs() < 1e-9);
            let share = 1.0 - narrowest / stenosis.reference_diameter_mm;
            assert!((100.0 * share - stenosis.diameter_narrowing_percent).abs() < 1e-9);
            assert!((35.0..=85.0).contains(&stenosis.diameter_narrowing_percent));
        }
    }
}
