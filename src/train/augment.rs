//! Samples changed at random: turned, scaled, shifted, mirrored, brighter or darker, with sides hidden by shutters. All
//! frames of a window and its label are changed alike.

use crate::error::{Error, Result};
use crate::random::Random;

/// How far samples are changed; each change is drawn evenly from its range.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Degrees to either side.
    pub rotation: f32,
    /// Share by which things grow or shrink at most, below 1.
    pub scale: f32,
    /// Share of the side, in either direction.
    pub shift: f32,
    /// Whether half of the samples are mirrored left to right.
    pub mirror: bool,
    /// Share by which the contrast grows or shrinks at most, below 1.
    pub contrast: f32,
    /// Share of white that is added or taken at most.
    pub brightness: f32,
    /// The exponent of grey values (0 black, 1 white) lies between 1 / (1 + gamma) and 1 + gamma.
    pub gamma: f32,
    /// The share of the picture's sides that a shutter of the collimator hides, with a black rim behind it. The dark band
    /// between a shutter's soft edge and such a rim, which some angiographs draw, looks like a vessel to a network that has
    /// never seen one.
    #[serde(default)]
    pub shutters: f32,
}

impl Default for Augmentation {
    fn default() -> Augmentation {
        Augmentation {
            rotation: 15.0,
            scale: 0.15,
            shift: 0.06,
            mirror: true,
            contrast: 0.25,
            brightness: 0.1,
            gamma: 0.3,
            shutters: 0.15,
        }
    }
}

impl Augmentation {
    /// Whether all numbers can be meant.
    ///
    /// # Errors
    /// [`Error::Request`] naming the one that cannot.
    pub fn check(&self) -> Result<()> {
        let limits = [
            ("rotation", self.rotation, 180.0),
            ("scale", self.scale, 0.9),
            ("shift", self.shift, 1.0),
            ("contrast", self.contrast, 0.9),
            ("brightness", self.brightness, 1.0),
            ("gamma", self.gamma, 9.0),
            ("shutters", self.shutters, 1.0),
        ];
        match limits.into_iter().find(|&(_, value, most)| !(0.0..=most).contains(&value)) {
            Some((what, value, most)) => {
                Err(Error::Request(format!("the augmentation's {what} must be 0 to {most}, not {value}")))
            }
            None => Ok(()),
        }
    }

    /// What happens to one sample.
    pub(super) fn draw(&self, random: &mut Random) -> Change {
        let mut around = |range: f32| random.between(-f64::from(range), f64::from(range));
        let (turn, size) = (around(self.rotation).to_radians(), 1.0 + around(self.scale));
        let (right, down) = (around(self.shift), around(self.shift));
        let (contrast, brightness) = (1.0 + around(self.contrast), around(self.brightness));
        let gamma = around((1.0 + self.gamma).ln()).exp();
        let mirrored = self.mirror && random.uniform() < 0.5;
        let (sin, cos) = (turn.sin() / size, turn.cos() / size);
        let flip = if mirrored { -1.0 } else { 1.0 };
        let shutters = Side::ALL.map(|side| {
            let (hides, shutter) = (random.uniform() < f64::from(self.shutters), Shutter::draw(side, random));
            hides.then_some(shutter)
        });
        Change {
            matrix: [flip * cos, -flip * sin, sin, cos].map(|number| number as f32),
            shift: [right as f32, down as f32],
            contrast: contrast as f32,
            brightness: brightness as f32,
            gamma: gamma as f32,
            shutters: shutters.into_iter().flatten().collect(),
        }
    }
}

/// A change of one sample: where each of its pixels comes from, and what becomes of its grey values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// From a pixel's place relative to the middle to the place that it comes from: x by x, x by y, y by x, y by y.
    matrix: [f32; 4],
    /// Then added, in shares of the side.
    shift: [f32; 2],
    contrast: f32,
    brightness: f32,
    gamma: f32,
    shutters: Vec<Shutter>,
}

impl Change {
    /// Moves the pixels of a square plane. What comes from outside of it is seen in the mirror of its border.
    pub(super) fn moved(&self, plane: &[f32], side: usize) -> Vec<f32> {
        let middle = (side as f32 - 1.0) / 2.0;
        let [xx, xy, yx, yy] = self.matrix;
        let [right, down] = self.shift.map(|share| share * side as f32);
        let mut moved = Vec::with_capacity(plane.len());
        for y in 0..side {
            for x in 0..side {
                let (dx, dy) = (x as f32 - middle, y as f32 - middle);
                moved.push(bilinear(
                    plane,
                    side,
                    middle + xx * dx + xy * dy + right,
                    middle + yx * dx + yy * dy + down,
                ));
            }
        }
        moved
    }

    /// Changes the grey values of a plane as the network reads them, -1.6 to 1.6.
    pub(super) fn toned(&self, plane: &mut [f32]) {
        for value in plane {
            let grey = ((*value + 1.6) / 3.2).clamp(0.0, 1.0).powf(self.gamma);
            let grey = (grey - 0.5) * self.contrast + 0.5 + self.brightness;
            *value = grey.clamp(0.0, 1.0) * 3.2 - 1.6;
        }
    }
}

impl Change {
    /// Hides the sides of a plane as the network reads it.
    pub(super) fn covered(&self, plane: &mut [f32], side: usize) {
        for shutter in &self.shutters {
            for (place, value) in plane.iter_mut().enumerate() {
                *value = shutter.cover(place, side, *value);
            }
        }
    }

    /// Takes from a mask what more than half is hidden.
    pub(super) fn uncovered(&self, mask: &mut [f32], side: usize) {
        for shutter in &self.shutters {
            for (place, share) in mask.iter_mut().enumerate() {
                if shutter.opening(place, side) < 0.5 {
                    *share = 0.0;
                }
            }
        }
    }
}

/// A side of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Top,
    Right,
    Bottom,
}

impl Side {
    const ALL: [Side; 4] = [Side::Left, Side::Top, Side::Right, Side::Bottom];
}

/// A blade that hides one side, and a rim behind it. Lengths are shares of the picture's side.
#[derive(Debug, Clone, PartialEq)]
struct Shutter {
    side: Side,
    /// How far it reaches in, in the middle of the side.
    depth: f32,
    /// How much deeper at one end than in the middle.
    tilt: f32,
    /// Over which it goes from open to shut.
    penumbra: f32,
    /// What is seen where it is shut, as the network reads it.
    shade: f32,
    /// Up to here all is black.
    rim: f32,
}

impl Shutter {
    fn draw(side: Side, random: &mut Random) -> Shutter {
        let mut between = |low, high| random.between(low, high) as f32;
        let (depth, tilt, penumbra) = (between(0.0, 0.12), between(-0.02, 0.02), between(0.003, 0.03));
        // From black to the grey of scattered light.
        let shade = between(0.0, 0.35) * 3.2 - 1.6;
        let rim = depth - between(0.0, 0.1);
        Shutter { side, depth, tilt, penumbra, shade, rim }
    }

    /// How far a pixel lies from the side, and along it from -0.5 to 0.5.
    fn across(&self, place: usize, side: usize) -> (f32, f32) {
        let share = |pixel: usize| (pixel as f32 + 0.5) / side as f32;
        let (x, y) = (share(place % side), share(place / side));
        match self.side {
            Side::Left => (x, y - 0.5),
            Side::Top => (y, x - 0.5),
            Side::Right => (1.0 - x, y - 0.5),
            Side::Bottom => (1.0 - y, x - 0.5),
        }
    }

    /// The share of the light that passes.
    fn opening(&self, place: usize, side: usize) -> f32 {
        let (from_side, along) = self.across(place, side);
        if from_side < self.rim {
            return 0.0;
        }
        let edge = self.depth + 2.0 * self.tilt * along;
        let t = ((from_side - edge) / self.penumbra + 0.5).clamp(0.0, 1.0);
        t * t * (3.0 - 2.0 * t)
    }

    fn cover(&self, place: usize, side: usize, value: f32) -> f32 {
        if self.across(place, side).0 < self.rim {
            return -1.6;
        }
        let opening = self.opening(place, side);
        value * opening + self.shade * (1.0 - opening)
    }
}

fn bilinear(plane: &[f32], side: usize, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = (x - left, y - top);
    let at = |x: f32, y: f32| plane[mirrored(y, side) * side + mirrored(x, side)];
    let upper = at(left, top) * (1.0 - across) + at(left + 1.0, top) * across;
    let lower = at(left, top + 1.0) * (1.0 - across) + at(left + 1.0, top + 1.0) * across;
    upper * (1.0 - down) + lower * down
}

/// The pixel of `0..side` that a place outside shows in the mirror of the border.
fn mirrored(place: f32, side: usize) -> usize {
    let (place, period) = (place as i64, 2 * side as i64);
    let within = place.rem_euclid(period);
    (if within < side as i64 { within } else { period - 1 - within }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Augmentation = Augmentation {
        rotation: 0.0,
        scale: 0.0,
        shift: 0.0,
        mirror: false,
        contrast: 0.0,
        brightness: 0.0,
        gamma: 0.0,
        shutters: 0.0,
    };

    fn plane(side: usize) -> Vec<f32> {
        (0..side * side).map(|i| (i as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn no_change_changes_nothing() {
        let change = NOTHING.draw(&mut Random::new(1));
        let mut same = change.moved(&plane(9), 9);
        assert_eq!(same, plane(9));
        change.toned(&mut same);
        change.covered(&mut same, 9);
        change.uncovered(&mut same, 9);
        same.iter().zip(plane(9)).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} {b}"));
    }

    #[test]
    fn a_mirrored_plane_is_mirrored_and_a_quarter_turn_turns() {
        let mirror = Augmentation { mirror: true, ..NOTHING };
        let changes: Vec<Change> = (0..20).map(|seed| mirror.draw(&mut Random::new(seed))).collect();
        let [left, right] = [false, true].map(|m| changes.iter().find(|c| (c.matrix[0] < 0.0) == m).unwrap());
        assert_eq!(left.moved(&plane(4), 4), plane(4));
        let expected: Vec<f32> = plane(4).chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(right.moved(&plane(4), 4), expected);

        // Right comes from below: 90 degrees one way or the other.
        let turn = Change { matrix: [0.0, -1.0, 1.0, 0.0], ..left.clone() };
        assert_eq!(turn.moved(&[1.0, 2.0, 3.0, 4.0], 2), [2.0, 4.0, 1.0, 3.0]);
    }

    /// A disc in the middle grows and shrinks by what was drawn, and moves with the shift.
    #[test]
    fn scale_and_shift_are_those_that_were_drawn() {
        let side = 64;
        let disc: Vec<f32> = (0..side * side)
            .map(|i| {
                let (dx, dy) = ((i % side) as f32 - 31.5, (i / side) as f32 - 31.5);
                if dx * dx + dy * dy < 100.0 { 1.0 } else { 0.0 }
            })
            .collect();
        let area = |plane: &[f32]| plane.iter().sum::<f32>();
        let change = Augmentation { scale: 0.5, ..NOTHING }.draw(&mut Random::new(3));
        let size = 1.0 / change.matrix[0];
        assert!((0.5..=1.5).contains(&size));
        let ratio = area(&change.moved(&disc, side)) / area(&disc);
        assert!((ratio / (size * size) - 1.0).abs() < 0.05, "{ratio} for {size}");
        let change = Change { shift: [0.125, 0.0], ..NOTHING.draw(&mut Random::new(3)) };
        let moved = change.moved(&disc, side);
        assert_eq!(moved[31 * side + 23], 1.0);
        assert_eq!(moved[31 * side + 35], 0.0);
    }

    #[test]
    fn tones_stay_within_black_and_white_and_keep_their_order() {
        for seed in 0..50 {
            let mut ramp: Vec<f32> = (0..100).map(|i| i as f32 / 99.0 * 3.2 - 1.6).collect();
            Augmentation::default().draw(&mut Random::new(seed)).toned(&mut ramp);
            assert!(ramp.is_sorted() && ramp.iter().all(|v| (-1.6..=1.6).contains(v)), "seed {seed}");
        }
    }

    #[test]
    fn shutters_hide_sides_and_what_is_vessel_there() {
        let side = 200;
        let mut hidden = [0; 4];
        for seed in 0..50 {
            let change = Augmentation { shutters: 0.5, ..NOTHING }.draw(&mut Random::new(seed));
            let (mut frame, mut mask) = (vec![1.0; side * side], vec![1.0; side * side]);
            change.covered(&mut frame, side);
            change.uncovered(&mut mask, side);
            let middle = side / 2 * side + side / 2;
            assert_eq!((frame[middle], mask[middle]), (1.0, 1.0));
            assert!(frame.iter().zip(&mask).all(|(&value, &share)| value > -1.6 || share == 0.0), "seed {seed}");
            // Along the middle of a side: a black rim, then ever brighter.
            for shutter in &change.shutters {
                hidden[shutter.side as usize] += 1;
                let places: Vec<usize> = (0..side / 2)
                    .map(|from_side| match shutter.side {
                        Side::Left => side / 2 * side + from_side,
                        Side::Top => from_side * side + side / 2,
                        Side::Right => side / 2 * side + side - 1 - from_side,
                        Side::Bottom => (side - 1 - from_side) * side + side / 2,
                    })
                    .collect();
                assert!(places.is_sorted_by(|&a, &b| frame[a] <= frame[b] && mask[a] <= mask[b]), "{shutter:?}");
                let share = |count: usize| count as f32 / side as f32;
                let black = share(places.iter().filter(|&&place| frame[place] == -1.6).count());
                let masked = share(places.iter().filter(|&&place| mask[place] == 0.0).count());
                assert!((black - shutter.rim.max(0.0)).abs() < 0.006, "{black} {shutter:?}");
                assert!((masked - shutter.depth).abs() < 0.006, "{masked} {shutter:?}");
            }
        }
        assert!(hidden.iter().all(|&times| (15..=35).contains(&times)), "{hidden:?}");
        // Runs of before there were shutters go on without.
        let mut old = serde_json::to_value(NOTHING).unwrap();
        old.as_object_mut().unwrap().remove("shutters");
        assert_eq!(serde_json::from_value::<Augmentation>(old).unwrap(), NOTHING);
    }

    #[test]
    fn ranges_that_cannot_be_meant_are_refused() {
        assert!(Augmentation::default().check().is_ok());
        let said = Augmentation { scale: f32::NAN, ..NOTHING }.check().unwrap_err().to_string();
        assert_eq!(said, "the augmentation's scale must be 0 to 0.9, not NaN");
    }
}
