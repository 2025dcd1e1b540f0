//! Structure with a natural image's spectrum: octaves of smooth noise, each finer one weaker.

use crate::random::Random;

/// The longest and shortest wavelengths, as shares of the image's larger side.
const LONGEST: f32 = 0.4;
const SHORTEST: f32 = 0.006;
/// How amplitudes grow with wavelength: power spectra then fall with a slope of -2 - 2 x this.
const GROWTH: f32 = 0.45;
/// Texture beyond each edge that breathing may bring into view, as a share of the height.
const MARGIN: f32 = 0.15;

/// A still texture that can be sampled off its grid.
#[derive(Debug)]
pub struct Texture {
    width: usize,
    height: usize,
    margin: f32,
    values: Vec<f32>,
}

impl Texture {
    /// A texture of standard deviation about `amount` for `width` x `height` pixels.
    pub fn new(random: &mut Random, width: usize, height: usize, amount: f64) -> Texture {
        let side = width.max(height) as f32;
        let margin = (MARGIN * height as f32).ceil();
        let rows = height + 2 * margin as usize;
        let mut values = vec![0.0; width * rows];
        let mut wavelength = LONGEST;
        let mut power = 0.0;
        while wavelength >= SHORTEST {
            let amplitude = wavelength.powf(GROWTH);
            // A value noise's variance is about a fifth.
            power += amplitude * amplitude / 5.0;
            add_octave(&mut values, width, wavelength * side, amplitude, random.bits());
            wavelength /= 1.7;
        }
        let factor = amount as f32 / power.sqrt();
        for value in &mut values {
            *value *= factor;
        }
        Texture { width, height: rows, margin, values }
    }

    /// The value at a place, linear between pixels, the edge's beyond the edge.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x.clamp(0.0, (self.width - 1) as f32), (y + self.margin).clamp(0.0, (self.height - 1) as f32));
        let (left, top) = (x as usize, y as usize);
        let (right, bottom) = ((left + 1).min(self.width - 1), (top + 1).min(self.height - 1));
        let (u, v) = (x - left as f32, y - top as f32);
        let value = |x: usize, y: usize| self.values[y * self.width + x];
        let upper = value(left, top) * (1.0 - u) + value(right, top) * u;
        let lower = value(left, bottom) * (1.0 - u) + value(right, bottom) * u;
        upper * (1.0 - v) + lower * v
    }
}

/// Adds noise in -1..1 on a lattice of `wavelength` / 2 pixels, smooth in between.
fn add_octave(values: &mut [f32], width: usize, wavelength: f32, amplitude: f32, seed: u64) {
    let pitch = wavelength / 2.0;
    let corner = |x: usize, y: usize| {
        let bits = Random::of(&[seed, x as u64, y as u64]).bits();
        2.0 * ((bits >> 40) as f32 / (1u64 << 24) as f32) - 1.0
    };
    let rows = values.len() / width;
    let columns = (width as f32 / pitch) as usize + 2;
    let lattice: Vec<f32> =
        (0..(rows as f32 / pitch) as usize + 2).flat_map(|y| (0..columns).map(move |x| corner(x, y))).collect();
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    for (y, row) in values.chunks_exact_mut(width).enumerate() {
        let v = y as f32 / pitch;
        let (top, v) = (v as usize, ease(v.fract()));
        for (x, value) in row.iter_mut().enumerate() {
            let u = x as f32 / pitch;
            let (left, u) = (u as usize, ease(u.fract()));
            let at = |dx: usize, dy: usize| lattice[(top + dy) * columns + left + dx];
            let upper = at(0, 0) * (1.0 - u) + at(1, 0) * u;
            let lower = at(0, 1) * (1.0 - u) + at(1, 1) * u;
            *value += amplitude * (upper * (1.0 - v) + lower * v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_amount_asked_for_and_is_smooth() {
        let texture = Texture::new(&mut Random::new(3), 256, 200, 0.1);
        let values = &texture.values;
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
        assert!((0.05..0.2).contains(&deviation), "{deviation}");
        for y in 0..199 {
            let between = texture.at(100.0, y as f32 + 0.5);
            let mean = (texture.at(100.0, y as f32) + texture.at(100.0, y as f32 + 1.0)) / 2.0;
            assert!((between - mean).abs() < 1e-5);
        }
    }
}
