//! PNG bytes of masks (8-bit grey), probabilities (16-bit grey) and pictures (RGB).

use crate::error::{Error, Result};
use crate::media::{Colour, Frame, Mask, ProbabilityMap, Size};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// A mask as an 8-bit grey PNG, 0 and 255.
///
/// # Errors
/// [`Error::Request`] when the pixels do not fit the size.
pub fn mask_png(mask: &Mask) -> Result<Vec<u8>> {
    // Long runs of equal bytes deflate best unfiltered.
    encode(mask.size, &mask.pixels, ExtendedColorType::L8, CompressionType::Default, FilterType::NoFilter)
}

/// A probability as a 16-bit grey PNG: 0 is 0, 1 is 65535, values outside are clipped.
///
/// # Errors
/// [`Error::Request`] when the values do not fit the size.
pub fn probability_png(probability: &ProbabilityMap) -> Result<Vec<u8>> {
    // The encoder takes 16-bit samples in the machine's own byte order.
    let sample = |&p: &f32| ((p.clamp(0.0, 1.0) * 65535.0).round() as u16).to_ne_bytes();
    let bytes: Vec<u8> = probability.values.iter().flat_map(sample).collect();
    encode(probability.size, &bytes, ExtendedColorType::L16, CompressionType::Fast, FilterType::Sub)
}

/// A frame or picture as a PNG, grey or RGB as it is.
///
/// # Errors
/// [`Error::Request`] when it is too large for a PNG.
pub fn picture_png(picture: &Frame) -> Result<Vec<u8>> {
    let colour = match picture.colour() {
        Colour::Grey => ExtendedColorType::L8,
        Colour::Rgb => ExtendedColorType::Rgb8,
    };
    encode(picture.size(), picture.samples(), colour, CompressionType::Default, FilterType::Adaptive)
}

fn encode(
    size: Size,
    bytes: &[u8],
    colour: ExtendedColorType,
    compression: CompressionType,
    filter: FilterType,
) -> Result<Vec<u8>> {
    let wrong = |problem: &dyn std::fmt::Display| Error::Request(format!("a PNG of {size} is impossible: {problem}"));
    let (Ok(width), Ok(height)) = (u32::try_from(size.width), u32::try_from(size.height)) else {
        return Err(wrong(&"a side is too long"));
    };
    // The encoder panics on a wrong count of bytes.
    if (bytes.len() * 8) as u64 != size.area() as u64 * u64::from(colour.bits_per_pixel()) {
        return Err(wrong(&format!("it has {} bytes", bytes.len())));
    }
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, compression, filter);
    encoder.write_image(bytes, width, height, colour).map_err(|e| wrong(&e))?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 3, height: 2 };

    #[test]
    fn a_mask_comes_back_as_it_was() {
        let mask = Mask { size: SIZE, pixels: vec![0, 255, 0, 255, 255, 0] };
        let read = image::load_from_memory(&mask_png(&mask).unwrap()).unwrap();
        assert_eq!(read.color(), image::ColorType::L8);
        assert_eq!(read.as_bytes(), mask.pixels);
        assert_eq!((read.width(), read.height()), (3, 2));
    }

    #[test]
    fn a_probability_is_spread_over_16_bits() {
        let values = vec![0.0, 1.0, 0.5, 1.5, -0.1, 1.0 / 65535.0];
        let png = probability_png(&ProbabilityMap { size: SIZE, values }).unwrap();
        let read = image::load_from_memory(&png).unwrap();
        assert_eq!(read.color(), image::ColorType::L16);
        assert_eq!(read.to_luma16().into_raw(), [0, 65535, 32768, 65535, 0, 1]);
    }

    #[test]
    fn missing_pixels_are_an_error_and_not_a_panic() {
        assert!(mask_png(&Mask { size: SIZE, pixels: vec![0; 5] }).is_err());
        assert!(probability_png(&ProbabilityMap { size: SIZE, values: vec![0.0; 7] }).is_err());
    }
}
