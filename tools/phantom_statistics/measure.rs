//! What an angiogram looks like, in numbers that can be measured on real ones and on phantoms alike.
//!
//! Pictures and masks go in, figures come out: contrast-to-noise ratio and width of the vessels, slope of the
//! background's power spectrum, motion from frame to frame. Stills are compared at [`SIDE`] pixels across, motion at
//! the clip's own size.

use coronet::media::{BilinearResize, Frame, Mask, Size};
use imageproc::distance_transform::euclidean_squared_distance_transform;
use std::f64::consts::TAU;

/// Pixels across at which single pictures are compared: those of the stills.
pub const SIDE: usize = 300;
/// Grey levels up to this are the collimator's.
const BLANKED: f32 = 14.0;
/// The share of the field that stands out darkest: where vessels are taken to be in pictures without a mask.
const STANDING_OUT: f64 = 0.04;

/// A grey picture with the part of it that the collimator leaves open.
#[derive(Clone)]
pub struct Picture {
    pub size: Size,
    pub values: Vec<f32>,
    pub field: Vec<bool>,
}

impl Picture {
    /// The frame at its own size.
    pub fn new(frame: Frame) -> coronet::Result<Picture> {
        let (size, grey) = (frame.size(), frame.into_grey());
        let values: Vec<f32> = grey.samples().iter().map(|&v| f32::from(v)).collect();
        let margin = size.width / 40;
        let open = box_mean(&values, size, margin / 2).iter().map(|&mean| mean > BLANKED).collect::<Vec<_>>();
        let field = away_from(&open, size, margin as f64, false);
        Ok(Picture { size, values, field })
    }

    /// The frame resized to [`SIDE`] across.
    pub fn compared(frame: Frame) -> coronet::Result<Picture> {
        let (size, grey) = (frame.size(), frame.into_grey());
        let target = Size { width: SIDE, height: size.height * SIDE / size.width };
        let values: Vec<f32> = grey.samples().iter().map(|&v| f32::from(v)).collect();
        let mut resized = vec![0.0; target.area()];
        BilinearResize::new(size, target)?.apply(&values, &mut resized)?;
        let bytes = resized.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect();
        Picture::new(Frame::new(target, coronet::media::Colour::Grey, bytes)?)
    }

    /// Where dark ridges of up to a vessel's width stand out most, as a stand-in for a mask.
    pub fn ridges(&self) -> Vec<bool> {
        let reach = self.size.width / 42;
        let smooth = box_mean(&self.values, self.size, self.size.width / 300);
        let closed = extreme(&extreme(&smooth, self.size, reach, f32::max), self.size, reach, f32::min);
        let stand_out: Vec<f32> = closed.iter().zip(&smooth).map(|(c, s)| c - s).collect();
        let mut inside: Vec<f32> = (0..stand_out.len()).filter(|&i| self.field[i]).map(|i| stand_out[i]).collect();
        inside.sort_by(f32::total_cmp);
        let Some(&level) = inside.get(((1.0 - STANDING_OUT) * inside.len() as f64) as usize) else {
            return vec![false; stand_out.len()];
        };
        (0..stand_out.len()).map(|i| self.field[i] && stand_out[i] > level).collect()
    }
}

/// A mask at [`SIDE`] pixels across.
pub fn compared_mask(mask: &Mask) -> coronet::Result<(Size, Vec<bool>)> {
    let target = Size { width: SIDE, height: mask.size.height * SIDE / mask.size.width };
    let values: Vec<f32> = mask.pixels.iter().map(|&p| f32::from(u8::from(p >= 128))).collect();
    let mut resized = vec![0.0; target.area()];
    BilinearResize::new(mask.size, target)?.apply(&values, &mut resized)?;
    Ok((target, resized.iter().map(|&v| v >= 0.5).collect()))
}

/// Contrast-to-noise ratio of the vessels: in each tile that holds some, `(background - vessel) / deviation` of the
/// background about its plane; the median of the tiles.
pub fn contrast_to_noise(picture: &Picture, vessel: &[bool]) -> Option<f64> {
    let Size { width, height } = picture.size;
    let tile = width / 8;
    let background = away_from(vessel, picture.size, 1.5, true);
    let mut ratios = Vec::new();
    for top in (0..height.saturating_sub(tile)).step_by(tile / 2) {
        for left in (0..width.saturating_sub(tile)).step_by(tile / 2) {
            let pixels: Vec<usize> =
                (top..top + tile).flat_map(|y| (left..left + tile).map(move |x| y * width + x)).collect();
            if pixels.iter().any(|&i| !picture.field[i]) {
                continue;
            }
            let of = |i: usize| ((i % width) as f64, (i / width) as f64, f64::from(picture.values[i]));
            let inside: Vec<_> = pixels.iter().filter(|&&i| vessel[i]).map(|&i| of(i)).collect();
            let around: Vec<_> = pixels.iter().filter(|&&i| background[i]).map(|&i| of(i)).collect();
            let share = inside.len() as f64 / pixels.len() as f64;
            if !(0.04..0.5).contains(&share) || around.len() < pixels.len() / 4 {
                continue;
            }
            let plane = Plane::through(&around);
            let deviation = (mean(around.iter().map(|p| (p.2 - plane.at(p)).powi(2)))).sqrt();
            ratios.push(mean(inside.iter().map(|p| plane.at(p) - p.2)) / deviation.max(0.25));
        }
    }
    quantile(&ratios, 0.5)
}

/// The width of the vessel at each of its pixels: the diameter of the largest disc within the mask that covers it
/// (local thickness; Hildebrand and Ruegsegger 1997), in pixels.
pub fn widths(vessel: &[bool], size: Size) -> Vec<f64> {
    let distance = distance_to(vessel, size, false);
    let mut widths = vec![0.0f64; vessel.len()];
    for centre in (0..vessel.len()).filter(|&i| vessel[i]) {
        // Distances run from pixel centre to pixel centre: the wall is half a pixel nearer.
        let radius = distance[centre] - 0.5;
        let (x, y, reach) = ((centre % size.width) as i64, (centre / size.width) as i64, radius.ceil() as i64);
        for (dx, dy) in (-reach..=reach).flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy))) {
            let inside = (0..size.width as i64).contains(&(x + dx)) && (0..size.height as i64).contains(&(y + dy));
            if inside && (dx as f64).hypot(dy as f64) <= radius {
                let width = &mut widths[(y + dy) as usize * size.width + (x + dx) as usize];
                *width = width.max(2.0 * radius);
            }
        }
    }
    widths.into_iter().filter(|&width| width > 0.0).collect()
}

/// The exponent with which the power spectrum of the picture's middle falls with frequency, from 3 cycles across it to
/// a fifth of a cycle per pixel.
pub fn spectrum_slope(picture: &Picture) -> Option<f64> {
    let side = picture.size.width.min(picture.size.height) * 3 / 5;
    let (left, top) = ((picture.size.width - side) / 2, (picture.size.height - side) / 2);
    let value = |x: usize, y: usize| f64::from(picture.values[(top + y) * picture.size.width + left + x]);
    let average = mean((0..side * side).map(|i| value(i % side, i / side)));
    let hann = |i: usize| 0.5 - 0.5 * (TAU * (i as f64 + 0.5) / side as f64).cos();
    let windowed = |x: usize, y: usize| (value(x, y) - average) * hann(x) * hann(y);
    let rings = power_by_frequency(side, side / 5, windowed);
    let points: Vec<(f64, f64)> =
        rings.iter().enumerate().skip(3).map(|(f, power)| ((f as f64).ln(), power.max(1e-12).ln())).collect();
    let (mx, my) = (mean(points.iter().map(|p| p.0)), mean(points.iter().map(|p| p.1)));
    let spread: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    (spread > 0.0).then(|| points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>() / spread)
}

/// The mean power at each whole frequency up to `highest`, in cycles across a square of `side`, whatever the direction.
fn power_by_frequency(side: usize, highest: usize, value: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let wave = |k: usize, i: usize| (TAU * (k * i % side) as f64 / side as f64).sin_cos();
    let mut rings = vec![(0.0, 0usize); highest + 1];
    for k in 0..=highest {
        // Along the rows at this frequency, then down what comes of it; the other half of the plane is the same.
        let column: Vec<(f64, f64)> = (0..side)
            .map(|y| {
                (0..side).fold((0.0, 0.0), |(re, im), x| {
                    let ((sin, cos), v) = (wave(k, x), value(x, y));
                    (re + v * cos, im - v * sin)
                })
            })
            .collect();
        for l in 0..side {
            let frequency = (k as f64).hypot(l.min(side - l) as f64).round() as usize;
            let Some(ring) = rings.get_mut(frequency) else { continue };
            let (re, im) = column.iter().enumerate().fold((0.0, 0.0), |(re, im), (y, (a, b))| {
                let (sin, cos) = wave(l, y);
                (re + a * cos + b * sin, im + b * cos - a * sin)
            });
            ring.0 += re * re + im * im;
            ring.1 += 1;
        }
    }
    rings.into_iter().map(|(power, count)| power / count.max(1) as f64).collect()
}

/// How far blocks on dark ridges move to the next picture, in percent of the picture's width.
pub fn motion(from: &Picture, to: &Picture) -> Vec<f64> {
    const HALF: usize = 14;
    const REACH: i64 = 14;
    let Size { width, height } = from.size;
    let ridges = from.ridges();
    let edge = HALF + REACH as usize + 1;
    let mut moves = Vec::new();
    for y in (edge..height - edge).step_by(HALF) {
        for x in (edge..width - edge).step_by(HALF) {
            let covered = (y - 7..y + 7).flat_map(|v| (x - 7..x + 7).map(move |u| v * width + u));
            if covered.filter(|&i| ridges[i]).count() < 40 || !from.field[y * width + x] {
                continue;
            }
            let cost = |dx: i64, dy: i64| {
                let mut difference = Vec::with_capacity(4 * HALF * HALF);
                for v in y - HALF..=y + HALF {
                    for u in x - HALF..=x + HALF {
                        let there = (v as i64 + dy) as usize * width + (u as i64 + dx) as usize;
                        difference.push(f64::from(to.values[there] - from.values[v * width + u]));
                    }
                }
                let average = mean(difference.iter().copied());
                difference.iter().map(|d| (d - average).powi(2)).sum::<f64>()
            };
            let mut best = (f64::INFINITY, 0, 0);
            for dy in -REACH..=REACH {
                for dx in -REACH..=REACH {
                    let here = cost(dx, dy);
                    if here < best.0 {
                        best = (here, dx, dy);
                    }
                }
            }
            let (least, dx, dy) = best;
            if dx.abs() == REACH || dy.abs() == REACH {
                continue;
            }
            // The minimum of the parabola through the best place and its neighbours.
            let fine = |before: f64, after: f64| 0.5 * (before - after) / (before - 2.0 * least + after).max(1e-9);
            let (fx, fy) = (fine(cost(dx - 1, dy), cost(dx + 1, dy)), fine(cost(dx, dy - 1), cost(dx, dy + 1)));
            moves.push(100.0 * (dx as f64 + fx).hypot(dy as f64 + fy) / width as f64);
        }
    }
    moves
}

/// The value below which `share` of `values` lie.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((share * sorted.len().saturating_sub(1) as f64).round() as usize).copied()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    sum / count.max(1) as f64
}

/// `value = a + b (x - mx) + c (y - my)`, least squares.
struct Plane {
    middle: (f64, f64),
    level: f64,
    slope: (f64, f64),
}

impl Plane {
    fn through(points: &[(f64, f64, f64)]) -> Plane {
        let middle = (mean(points.iter().map(|p| p.0)), mean(points.iter().map(|p| p.1)));
        let level = mean(points.iter().map(|p| p.2));
        let sum = |f: &dyn Fn(f64, f64, f64) -> f64| {
            points.iter().map(|p| f(p.0 - middle.0, p.1 - middle.1, p.2 - level)).sum::<f64>()
        };
        let (xx, xy, yy) = (sum(&|x, _, _| x * x), sum(&|x, y, _| x * y), sum(&|_, y, _| y * y));
        let (xv, yv) = (sum(&|x, _, v| x * v), sum(&|_, y, v| y * v));
        let determinant = xx * yy - xy * xy;
        let slope = if determinant.abs() < 1e-9 {
            (0.0, 0.0)
        } else {
            ((xv * yy - yv * xy) / determinant, (yv * xx - xv * xy) / determinant)
        };
        Plane { middle, level, slope }
    }

    fn at(&self, point: &(f64, f64, f64)) -> f64 {
        self.level + self.slope.0 * (point.0 - self.middle.0) + self.slope.1 * (point.1 - self.middle.1)
    }
}

/// Distance of every pixel to the nearest one whose value is `wanted`, in pixels.
fn distance_to(values: &[bool], size: Size, wanted: bool) -> Vec<f64> {
    let picture = image::GrayImage::from_fn(size.width as u32, size.height as u32, |x, y| {
        image::Luma([if values[y as usize * size.width + x as usize] == wanted { 255 } else { 0 }])
    });
    euclidean_squared_distance_transform(&picture).iter().map(|d| d.sqrt()).collect()
}

/// The pixels further than `distance` from every one whose value is `from`.
fn away_from(values: &[bool], size: Size, distance: f64, from: bool) -> Vec<bool> {
    distance_to(values, size, from).iter().map(|&d| d > distance).collect()
}

/// The mean of the square of `2 reach + 1` pixels around each.
fn box_mean(values: &[f32], size: Size, reach: usize) -> Vec<f32> {
    let along = |values: &[f32], step: usize, count: usize, at: usize, place: usize| {
        let (first, last) = (place.saturating_sub(reach), (place + reach).min(count - 1));
        (first..=last).map(|i| values[at + i * step]).sum::<f32>() / (last - first + 1) as f32
    };
    separable(values, size, along)
}

/// The largest (or smallest) of the square of `2 reach + 1` pixels around each.
fn extreme(values: &[f32], size: Size, reach: usize, pick: fn(f32, f32) -> f32) -> Vec<f32> {
    let along = |values: &[f32], step: usize, count: usize, at: usize, place: usize| {
        let (first, last) = (place.saturating_sub(reach), (place + reach).min(count - 1));
        (first..=last).map(|i| values[at + i * step]).reduce(pick).unwrap_or(0.0)
    };
    separable(values, size, along)
}

/// Applies `along(values, step, count, first index, place)` to the rows, then to the columns.
fn separable(values: &[f32], size: Size, along: impl Fn(&[f32], usize, usize, usize, usize) -> f32) -> Vec<f32> {
    let Size { width, height } = size;
    let rows: Vec<f32> = (0..size.area()).map(|i| along(values, 1, width, i / width * width, i % width)).collect();
    (0..size.area()).map(|i| along(&rows, width, height, i % width, i / width)).collect()
}
