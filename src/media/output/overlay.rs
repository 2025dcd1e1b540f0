//! A mask over its frame: a translucent fill that lets the vessel show, and a bright, smooth outline just outside it.
//!
//! The outline is a level line of the slightly blurred mask, drawn by each pixel's distance to it, so it has neither
//! the mask's stair steps nor a width that depends on the picture's size.

use super::caption::{self, STRIP, blend};
use crate::error::{Error, Result};
use crate::media::{BilinearResize, Colour, Frame, Mask, Size};
use image::{Rgb, RgbImage};

/// Warm hues stand out from grey X-ray pictures, and keep their brightness when a video halves its colour resolution.
const OUTLINE: Rgb<u8> = Rgb([255, 214, 10]);
const FILL: Rgb<u8> = Rgb([255, 69, 58]);
const FILL_OPACITY: f32 = 0.30;
/// The level of the outline. Under the 3/8 that a line one pixel wide still reaches after the blur.
const LEVEL: f32 = 0.3;
/// Half the outline's width, in pixels.
const HALF_WIDTH: f32 = 0.7;
/// Panels for people are not larger than this, and small frames are enlarged up to it.
const LONGEST_SIDE: usize = 1280;
const SHORTEST_SIDE: usize = 256;

pub(super) const BACKGROUND: Rgb<u8> = Rgb([18, 18, 20]);
pub(super) const TEXT: Rgb<u8> = Rgb([235, 235, 235]);

/// Paints overlays of one size, keeping its working memory.
#[derive(Debug)]
pub struct OverlayPainter {
    panel: Size,
    resize: BilinearResize,
    /// The source's samples, one channel at a time, or its mask.
    plane: Vec<f32>,
    /// The mask at the panel's size, 0 to 1.
    cover: Vec<f32>,
    /// The same, blurred.
    soft: Vec<f32>,
    row_blur: Vec<f32>,
}

impl OverlayPainter {
    /// A painter for frames of `source` size that makes pictures of `panel` size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0 or too long.
    pub fn new(source: Size, panel: Size) -> Result<OverlayPainter> {
        let area = panel.area();
        Ok(OverlayPainter {
            panel,
            resize: BilinearResize::new(source, panel)?,
            plane: vec![0.0; source.area()],
            cover: vec![0.0; area],
            soft: vec![0.0; area],
            row_blur: vec![0.0; area],
        })
    }

    /// The frame alone, at the panel's size.
    ///
    /// # Errors
    /// [`Error::Request`] when the frame has another size than announced.
    pub fn plain(&mut self, frame: &Frame) -> Result<RgbImage> {
        if frame.size() == self.panel && self.resize.from() == self.panel {
            let mut picture = canvas(self.panel.width, self.panel.height)?;
            picture.copy_from_slice(frame.clone().into_rgb().samples());
            return Ok(picture);
        }
        let samples = frame.colour().samples();
        let mut channels = [const { Vec::new() }; 3];
        for (channel, target) in channels.iter_mut().take(samples).enumerate() {
            let source = frame.samples().chunks_exact(samples).map(|pixel| f32::from(pixel[channel]));
            self.plane.clear();
            self.plane.extend(source);
            target.resize(self.panel.area(), 0.0);
            self.resize.apply(&self.plane, target)?;
        }
        let [red, green, blue] = match frame.colour() {
            Colour::Grey => [&channels[0]; 3],
            Colour::Rgb => channels.each_ref(),
        };
        let mut picture = canvas(self.panel.width, self.panel.height)?;
        for (i, pixel) in picture.pixels_mut().enumerate() {
            pixel.0 = [red[i], green[i], blue[i]].map(|value| value.round().clamp(0.0, 255.0) as u8);
        }
        Ok(picture)
    }

    /// Lays `mask` over `picture`, which came from [`OverlayPainter::plain`].
    ///
    /// # Errors
    /// [`Error::Request`] when the mask or the picture has another size than announced.
    pub fn lay_over(&mut self, mask: &Mask, picture: &mut RgbImage) -> Result<()> {
        if (picture.width() as usize, picture.height() as usize) != (self.panel.width, self.panel.height) {
            return Err(Error::Request(format!("an overlay of {} needs a picture of that size", self.panel)));
        }
        self.plane.clear();
        self.plane.extend(mask.pixels.iter().map(|&pixel| if pixel == 0 { 0.0 } else { 1.0 }));
        self.resize.apply(&self.plane, &mut self.cover)?;
        self.blur();
        let (width, height) = (self.panel.width, self.panel.height);
        for (y, row) in picture.rows_mut().enumerate() {
            for (x, pixel) in row.enumerate() {
                let at = y * width + x;
                // Most of a picture is far from any vessel.
                if self.soft[at] == 0.0 {
                    continue;
                }
                blend(pixel, FILL, FILL_OPACITY * self.cover[at]);
                let soft = &self.soft;
                let right = soft[at + usize::from(x + 1 < width)];
                let left = soft[at - usize::from(x > 0)];
                let below = soft[if y + 1 < height { at + width } else { at }];
                let above = soft[if y > 0 { at - width } else { at }];
                // Distance to the level line, to first order: (value - level) / |gradient|.
                let (across, down) = ((right - left) / 2.0, (below - above) / 2.0);
                let slope = (across * across + down * down).sqrt();
                let distance = (soft[at] - LEVEL).abs() / slope.max(1e-6);
                blend(pixel, OUTLINE, (HALF_WIDTH + 0.5 - distance).clamp(0.0, 1.0));
            }
        }
        Ok(())
    }

    /// Blurs `cover` into `soft` with the binomial 1 4 6 4 1 over 16 in both directions, borders repeated.
    fn blur(&mut self) {
        let Size { width, height } = self.panel;
        let binomial = |v: [f32; 5]| (v[0] + v[4] + 4.0 * (v[1] + v[3]) + 6.0 * v[2]) / 16.0;
        for (source, target) in self.cover.chunks_exact(width).zip(self.row_blur.chunks_exact_mut(width)) {
            // Away from the borders nothing is to be clamped, and a compiler makes vectors of it.
            for (value, window) in target.iter_mut().skip(2).zip(source.windows(5)) {
                *value = binomial([window[0], window[1], window[2], window[3], window[4]]);
            }
            for x in (0..width).filter(|&x| x < 2 || x + 2 >= width) {
                target[x] = binomial(std::array::from_fn(|k| source[(x + k).saturating_sub(2).min(width - 1)]));
            }
        }
        for (y, target) in self.soft.chunks_exact_mut(width).enumerate() {
            let [a, b, c, d, e]: [&[f32]; 5] = std::array::from_fn(|k| {
                let row = (y + k).saturating_sub(2).min(height - 1) * width;
                &self.row_blur[row..row + width]
            });
            for ((((value, a), b), c), (d, e)) in target.iter_mut().zip(a).zip(b).zip(c).zip(d.iter().zip(e)) {
                *value = binomial([*a, *b, *c, *d, *e]);
            }
        }
    }
}

/// Frame and overlay beside each other, under a line that says which frame it is: what an overlay video shows.
#[derive(Debug)]
pub struct SideBySide {
    painter: OverlayPainter,
    digits: usize,
}

/// Columns between the two panels.
const GAP: usize = 4;

impl SideBySide {
    /// For a clip of `frames` frames of `source` size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0 or too long.
    pub fn new(source: Size, frames: usize) -> Result<SideBySide> {
        let painter = OverlayPainter::new(source, panel_size(source, SHORTEST_SIDE, LONGEST_SIDE))?;
        Ok(SideBySide { painter, digits: frame_digits(frames) })
    }

    /// The size of every picture. Both sides are even, as H.264 wants them.
    pub fn size(&self) -> Size {
        panels_size(self.painter.panel, 2)
    }

    /// The picture of one frame.
    ///
    /// # Errors
    /// [`Error::Request`] when frame or mask have another size than announced.
    pub fn paint(&mut self, index: usize, frame: &Frame, mask: &Mask) -> Result<Frame> {
        let number = format!("frame {index:0digits$}", digits = self.digits);
        let area = format!("vessel {:.2} %", share_of_image(mask) * 100.0);
        paint_panels(&mut self.painter, frame, &number, &[(mask, &area)])
    }
}

/// A frame and masks laid over it, each under a line of text: a picture to compare masks with each other.
///
/// # Errors
/// [`Error::Request`] when a mask has another size than the frame.
pub fn compare_masks(frame: &Frame, name: &str, masks: &[(&Mask, &str)]) -> Result<Frame> {
    let mut painter = OverlayPainter::new(frame.size(), panel_size(frame.size(), SHORTEST_SIDE, LONGEST_SIDE))?;
    paint_panels(&mut painter, frame, name, masks)
}

/// The frame alone, then each mask over it, side by side under their captions.
fn paint_panels(painter: &mut OverlayPainter, frame: &Frame, name: &str, masks: &[(&Mask, &str)]) -> Result<Frame> {
    let Size { width, height } = panels_size(painter.panel, 1 + masks.len());
    let step = (painter.panel.width + GAP) as u32;
    let mut picture = canvas(width, height)?;
    let plain = painter.plain(frame)?;
    image::imageops::replace(&mut picture, &plain, 0, i64::from(STRIP));
    caption::write(&mut picture, name, 8, step, 0, TEXT);
    for (left, (mask, text)) in (1..).map(|position| position * step).zip(masks) {
        let mut panel = plain.clone();
        painter.lay_over(mask, &mut panel)?;
        image::imageops::replace(&mut picture, &panel, i64::from(left), i64::from(STRIP));
        caption::write(&mut picture, text, left + 8, left + step, 0, OUTLINE);
    }
    into_frame(picture)
}

/// So many panels beside each other, under a strip; both sides are even, as H.264 wants them.
fn panels_size(panel: Size, panels: usize) -> Size {
    let width = panels * (panel.width + GAP) - GAP;
    Size { width: width.next_multiple_of(2), height: (panel.height + STRIP as usize).next_multiple_of(2) }
}

/// The size at which people see frames of `source` size: enlarged to `shortest` and reduced to `longest` on the
/// longer side, the proportions kept.
pub(super) fn panel_size(source: Size, shortest: usize, longest: usize) -> Size {
    let side = source.width.max(source.height).max(1);
    let target = side.clamp(shortest, longest);
    let scaled = |length: usize| ((length as u128 * target as u128 + side as u128 / 2) / side as u128).max(1) as usize;
    Size { width: scaled(source.width), height: scaled(source.height) }
}

/// How many digits the numbers of a clip of `frames` frames are written with, in file names and on pictures: at least
/// four, and enough that names sort as numbers do.
pub fn frame_digits(frames: usize) -> usize {
    frames.saturating_sub(1).to_string().len().max(4)
}

pub(super) fn share_of_image(mask: &Mask) -> f64 {
    mask.vessel_pixels() as f64 / mask.size.area().max(1) as f64
}

/// An empty picture.
pub(super) fn canvas(width: usize, height: usize) -> Result<RgbImage> {
    let side = |length: usize| {
        u32::try_from(length).map_err(|_| Error::Request(format!("a picture of {width}x{height} is too large")))
    };
    Ok(RgbImage::from_pixel(side(width)?, side(height)?, BACKGROUND))
}

pub(super) fn into_frame(picture: RgbImage) -> Result<Frame> {
    let size = Size { width: picture.width() as usize, height: picture.height() as usize };
    Frame::new(size, Colour::Rgb, picture.into_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(size: Size, vessel: impl Fn(usize, usize) -> bool) -> RgbImage {
        let pixels = (0..size.area()).map(|i| if vessel(i % size.width, i / size.width) { 255 } else { 0 }).collect();
        let frame = Frame::new(size, Colour::Grey, vec![128; size.area()]).unwrap();
        let mut painter = OverlayPainter::new(size, size).unwrap();
        let mut picture = painter.plain(&frame).unwrap();
        painter.lay_over(&Mask { size, pixels }, &mut picture).unwrap();
        picture
    }

    const SIZE: Size = Size { width: 32, height: 24 };

    #[test]
    fn without_vessel_the_frame_is_untouched() {
        assert!(overlay(SIZE, |_, _| false).pixels().all(|p| p.0 == [128; 3]));
    }

    #[test]
    fn the_inside_is_tinted_and_the_edge_is_outlined() {
        let picture = overlay(SIZE, |x, _| (10..20).contains(&x));
        let row: Vec<[u8; 3]> = (0..32).map(|x| picture.get_pixel(x, 12).0).collect();
        assert_eq!(row[15], [166, 110, 107], "30 % of the fill over grey 128");
        assert_eq!(row[9], OUTLINE.0, "the outline lies on the first pixel outside");
        assert_eq!(row[20], OUTLINE.0);
        assert_eq!((row[6], row[23]), ([128; 3], [128; 3]), "the frame is untouched three pixels away");
    }

    #[test]
    fn a_vessel_one_pixel_wide_still_has_an_outline() {
        let picture = overlay(SIZE, |x, _| x == 16);
        let outlined = (0..32).filter(|&x| picture.get_pixel(x, 12).0[2] < 70).count();
        assert!(outlined >= 2, "{outlined} columns are outlined");
    }

    #[test]
    fn side_by_side_pictures_have_even_sides_and_hold_both_panels() {
        let source = Size { width: 301, height: 299 };
        let mut painter = SideBySide::new(source, 10).unwrap();
        assert_eq!(painter.size(), Size { width: 606, height: 324 });
        let frame = Frame::new(source, Colour::Grey, vec![77; source.area()]).unwrap();
        let picture = painter.paint(3, &frame, &Mask { size: source, pixels: vec![255; source.area()] }).unwrap();
        assert_eq!(picture.size(), painter.size());
        let pixel = |x: usize, y: usize| &picture.samples()[(y * 606 + x) * 3..][..3];
        assert_eq!(pixel(150, 160), [77; 3]);
        assert_eq!(pixel(305 + 150, 160), [130, 75, 71]);
    }

    #[test]
    fn panels_keep_the_proportions_between_the_shortest_and_the_longest_side() {
        let panel = |width, height| panel_size(Size { width, height }, 256, 1280);
        assert_eq!(panel(512, 400), Size { width: 512, height: 400 });
        assert_eq!(panel(64, 32), Size { width: 256, height: 128 });
        assert_eq!(panel(3840, 2160), Size { width: 1280, height: 720 });
        assert_eq!(panel(1, 100_000), Size { width: 1, height: 1280 });
    }
}
