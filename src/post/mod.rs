//! From the network's probability to a mask: resize to the source's size, threshold, drop small components.
//!
//! Steps and defaults are those of NETWORK.md, 'Metrics and post-processing', in that order.

mod components;

pub use components::remove_small_components;

use crate::error::{Error, Result};
use crate::media::{BilinearResize, Mask, ProbabilityMap, Size};
use std::str::FromStr;

/// A probability from which on a pixel is vessel, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, serde::Serialize)]
#[serde(transparent)]
pub struct Threshold(f32);

impl Threshold {
    /// Checks that `value` lies in 0..=1; NaN does not.
    ///
    /// # Errors
    /// [`Error::Request`] otherwise.
    pub fn new(value: f32) -> Result<Threshold> {
        if (0.0..=1.0).contains(&value) {
            Ok(Threshold(value))
        } else {
            Err(Error::Request(format!("a threshold lies between 0 and 1, not {value}")))
        }
    }

    /// The value, 0 to 1.
    pub fn value(self) -> f32 {
        self.0
    }
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold(0.5)
    }
}

impl FromStr for Threshold {
    type Err = Error;

    fn from_str(text: &str) -> Result<Threshold> {
        let value = text.parse().map_err(|_| Error::Request(format!("'{text}' is not a number between 0 and 1")))?;
        Threshold::new(value)
    }
}

/// The smallest connected component that stays in a mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinimumArea {
    /// A share of the image, 0 to 1.
    Fraction(f64),
    /// So many pixels; 0 and 1 keep everything.
    Pixels(usize),
}

impl MinimumArea {
    /// The fewest pixels that a component of an image of `size` needs to stay: the share, rounded up.
    pub fn pixels(self, size: Size) -> usize {
        match self {
            // 0.0005 is not exact in binary: a product a hair above a whole number is that number.
            MinimumArea::Fraction(share) => (share * size.area() as f64 - 1e-6).ceil().max(0.0) as usize,
            MinimumArea::Pixels(pixels) => pixels,
        }
    }
}

impl Default for MinimumArea {
    /// 0.05 % of the image.
    fn default() -> MinimumArea {
        MinimumArea::Fraction(0.0005)
    }
}

impl std::fmt::Display for MinimumArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MinimumArea::Fraction(share) => write!(f, "{share}"),
            MinimumArea::Pixels(pixels) => write!(f, "{pixels}px"),
        }
    }
}

impl FromStr for MinimumArea {
    type Err = Error;

    /// `0.0005` and `0.05%` are shares of the image, `130` and `130px` are pixels: a decimal point or a percent sign
    /// makes a share.
    fn from_str(text: &str) -> Result<MinimumArea> {
        let wrong = || {
            Error::Request(format!(
                "'{text}' is not an area: give a share of the image (0.0005 or 0.05%) or whole pixels (130 or 130px)"
            ))
        };
        let share = |text: &str, scale: f64| match text.trim().parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&(share / scale)) => Ok(MinimumArea::Fraction(share / scale)),
            _ => Err(wrong()),
        };
        if let Some(percent) = text.strip_suffix('%') {
            share(percent, 100.0)
        } else if text.contains('.') {
            share(text, 1.0)
        } else {
            text.strip_suffix("px").unwrap_or(text).trim().parse().map(MinimumArea::Pixels).map_err(|_| wrong())
        }
    }
}

/// How a probability becomes a mask.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PostProcessing {
    /// Pixels at or above it are vessel.
    pub threshold: Threshold,
    /// Components below it are dropped.
    pub minimum_area: MinimumArea,
}

impl PostProcessing {
    /// Thresholds `probability` (p >= t is vessel) and drops small components.
    pub fn mask(&self, probability: &ProbabilityMap) -> Mask {
        let mut mask = threshold(probability, self.threshold);
        let minimum = self.minimum_area.pixels(mask.size);
        remove_small_components(&mut mask, minimum);
        mask
    }
}

/// The mask of all pixels whose probability is at least `threshold`.
pub fn threshold(probability: &ProbabilityMap, threshold: Threshold) -> Mask {
    let vessel = |&p: &f32| if p >= threshold.0 { 255 } else { 0 };
    Mask { size: probability.size, pixels: probability.values.iter().map(vessel).collect() }
}

/// A probability at the network's size, brought to the source's size.
///
/// # Errors
/// [`Error::Request`] when `values` does not fit the resize.
pub fn to_source_size(resize: &mut BilinearResize, values: &[f32]) -> Result<ProbabilityMap> {
    let size = resize.to();
    let mut target = vec![0.0; size.area()];
    resize.apply(values, &mut target)?;
    Ok(ProbabilityMap { size, values: target })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn a_pixel_at_the_threshold_is_vessel() {
        let map = ProbabilityMap { size: size(4, 1), values: vec![0.49999, 0.5, 0.7, 0.0] };
        assert_eq!(threshold(&map, Threshold::default()).pixels, [0, 255, 255, 0]);
        assert_eq!(threshold(&map, Threshold::new(0.0).unwrap()).pixels, [255; 4]);
        assert_eq!(threshold(&map, Threshold::new(1.0).unwrap()).pixels, [0; 4]);
    }

    /// Rows 0 1 / 0 1 at twice the width: 0, 1/4, 3/4, 1 across; the threshold falls between the second and third.
    #[test]
    fn the_probability_is_resized_before_it_is_thresholded() {
        let mut resize = BilinearResize::new(size(2, 2), size(4, 4)).unwrap();
        let map = to_source_size(&mut resize, &[0.0, 1.0, 0.0, 1.0]).unwrap();
        let post = PostProcessing { minimum_area: MinimumArea::Pixels(0), ..Default::default() };
        assert_eq!(post.mask(&map).pixels, [0, 0, 255, 255].repeat(4));
    }

    #[test]
    fn small_components_go_after_the_threshold() {
        let values = vec![0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1];
        let map = ProbabilityMap { size: size(5, 2), values };
        let post = PostProcessing { minimum_area: MinimumArea::Pixels(3), ..Default::default() };
        assert_eq!(post.mask(&map).pixels, [255, 255, 0, 0, 0, 255, 0, 0, 0, 0]);
    }

    #[test]
    fn a_share_of_the_image_is_rounded_up_to_pixels() {
        assert_eq!(MinimumArea::default().pixels(size(512, 512)), 132);
        assert_eq!(MinimumArea::default().pixels(size(100, 100)), 5);
        assert_eq!(MinimumArea::Fraction(0.0).pixels(size(100, 100)), 0);
        assert_eq!(MinimumArea::Pixels(7).pixels(size(100, 100)), 7);
    }

    #[test]
    fn areas_parse_as_shares_percentages_or_pixels() {
        let parse = |text: &str| text.parse::<MinimumArea>();
        assert_eq!(parse("0.0005").unwrap(), MinimumArea::Fraction(0.0005));
        assert_eq!(parse("25%").unwrap(), MinimumArea::Fraction(0.25));
        assert_eq!(parse("130").unwrap(), MinimumArea::Pixels(130));
        assert_eq!(parse("130px").unwrap(), MinimumArea::Pixels(130));
        for text in ["", "-1", "1.5", "101%", "nan", "NaN%", "12 %%", "many", "inf."] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn thresholds_outside_0_to_1_and_nan_are_refused() {
        for text in ["-0.1", "1.01", "NaN", "nan", "inf", "half", ""] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
        assert_eq!("0.25".parse::<Threshold>().unwrap().value(), 0.25);
    }
}
