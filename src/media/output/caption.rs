//! Short lines of text on pictures, in Noto Sans Mono (SIL Open Font License) as rasters with grey levels.

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const HEIGHT: RasterHeight = RasterHeight::Size16;

/// Rows of a strip that holds one line of text.
pub(super) const STRIP: u32 = 24;

/// Writes `text` onto a strip whose upper left corner is at (`left`, `top`). What does not fit is cut off at `right`.
pub(super) fn write(picture: &mut RgbImage, text: &str, left: u32, right: u32, top: u32, colour: Rgb<u8>) {
    let advance = get_raster_width(FontWeight::Regular, HEIGHT) as u32;
    let top = top + (STRIP - HEIGHT.val() as u32) / 2;
    let right = right.min(picture.width());
    for (position, letter) in (0u32..).zip(text.chars()) {
        let Some(raster) = get_raster(letter, FontWeight::Regular, HEIGHT) else { continue };
        for (y, row) in (top..).zip(raster.rows()) {
            for (x, &coverage) in (left + position * advance..).zip(row) {
                if x < right && y < picture.height() {
                    blend(picture.get_pixel_mut(x, y), colour, f32::from(coverage) / 255.0);
                }
            }
        }
    }
}

/// How many columns `text` takes.
pub(super) fn width(text: &str) -> u32 {
    (text.chars().count() * get_raster_width(FontWeight::Regular, HEIGHT)) as u32
}

/// Lays `colour` over a pixel, `opacity` 0 to 1.
pub(super) fn blend(pixel: &mut Rgb<u8>, colour: Rgb<u8>, opacity: f32) {
    for (below, above) in pixel.0.iter_mut().zip(colour.0) {
        *below = (f32::from(*below) + (f32::from(above) - f32::from(*below)) * opacity).round() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_left_of_its_right_edge_and_inside_the_picture() {
        let mut picture = RgbImage::new(40, STRIP);
        write(&mut picture, "0123456789", 2, 20, 0, Rgb([255, 255, 255]));
        assert!(picture.enumerate_pixels().any(|(_, _, p)| p.0[0] > 200));
        assert!(picture.enumerate_pixels().all(|(x, _, p)| p.0 == [0; 3] || (2..20).contains(&x)));
        write(&mut picture, "0123456789", 30, 400, 20, Rgb([255, 255, 255]));
    }

    #[test]
    fn blending_half_of_white_over_black_is_grey() {
        let mut pixel = Rgb([0, 0, 255]);
        blend(&mut pixel, Rgb([255, 0, 255]), 0.5);
        assert_eq!(pixel.0, [128, 0, 255]);
    }
}
