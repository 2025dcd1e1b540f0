//! A whole clip at one glance: evenly spaced frames with their masks and numbers on one picture.

use super::caption::{self, STRIP};
use super::overlay::{OverlayPainter, TEXT, canvas, frame_digits, into_frame, panel_size, share_of_image};
use crate::error::Result;
use crate::media::{Frame, Mask, Size};
use image::RgbImage;
use std::ops::Range;

/// How many frames it shows at most.
const TILES: usize = 16;
/// The longer side of a tile's picture.
const TILE_SIDE: usize = 320;
/// Columns and rows around every tile.
const MARGIN: u32 = 6;

/// Collects tiles while a clip runs by; holds no more than they need.
#[derive(Debug)]
pub struct ContactSheet {
    painter: OverlayPainter,
    tile: Size,
    digits: usize,
    chosen: Vec<usize>,
    tiles: Vec<RgbImage>,
}

impl ContactSheet {
    /// A sheet for the frames `shown` of a clip of `frames` frames of `source` size.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when a side is 0 or too long.
    pub fn new(source: Size, frames: usize, shown: &Range<usize>) -> Result<ContactSheet> {
        let tile = panel_size(source, TILE_SIDE, TILE_SIDE);
        let painter = OverlayPainter::new(source, tile)?;
        Ok(ContactSheet {
            painter,
            tile,
            digits: frame_digits(frames),
            chosen: evenly_spaced(shown),
            tiles: Vec::new(),
        })
    }

    /// Takes the frame if it is one of the chosen.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when frame or mask have another size than announced.
    pub fn offer(&mut self, index: usize, frame: &Frame, mask: &Mask) -> Result<()> {
        if self.chosen.binary_search(&index).is_err() {
            return Ok(());
        }
        let mut picture = self.painter.plain(frame)?;
        self.painter.lay_over(mask, &mut picture)?;
        let mut tile = canvas(self.tile.width, self.tile.height + STRIP as usize)?;
        image::imageops::replace(&mut tile, &picture, 0, 0);

        let (top, right) = (self.tile.height as u32, self.tile.width as u32);
        let number = format!("{index:0digits$}", digits = self.digits);
        caption::write(&mut tile, &number, 0, right, top, TEXT);
        let area = format!("{:.2} %", share_of_image(mask) * 100.0);
        let left = right.saturating_sub(caption::width(&area));
        if left > caption::width(&number) {
            caption::write(&mut tile, &area, left, right, top, TEXT);
        }
        self.tiles.push(tile);
        Ok(())
    }

    /// The sheet of the tiles so far, row by row.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the sheet would be too large for a picture.
    pub fn finish(self) -> Result<Frame> {
        let columns = columns(self.tiles.len(), self.tile);
        let rows = self.tiles.len().div_ceil(columns).max(1);
        let step = (self.tile.width + MARGIN as usize, self.tile.height + STRIP as usize + MARGIN as usize);
        let mut sheet = canvas(columns * step.0 + MARGIN as usize, rows * step.1 + MARGIN as usize)?;
        for (i, tile) in self.tiles.iter().enumerate() {
            let (x, y) = (i % columns * step.0, i / columns * step.1);
            image::imageops::replace(&mut sheet, tile, x as i64 + i64::from(MARGIN), y as i64 + i64::from(MARGIN));
        }
        into_frame(sheet)
    }
}

/// At most [`TILES`] numbers from `shown`, the first and the last among them.
fn evenly_spaced(shown: &Range<usize>) -> Vec<usize> {
    if shown.len() <= TILES {
        return shown.clone().collect();
    }
    // Differences of at least one before rounding, so no number comes twice.
    let place = |i: usize| (i as f64 * (shown.len() - 1) as f64 / (TILES - 1) as f64).round() as usize;
    (0..TILES).map(|i| shown.start + place(i)).collect()
}

/// The number of columns that brings a sheet of `tiles` tiles nearest to 4:3.
fn columns(tiles: usize, tile: Size) -> usize {
    let wanted = 4.0 / 3.0;
    let off = |columns: usize| {
        let rows = tiles.div_ceil(columns).max(1);
        let shape = (columns * tile.width) as f64 / (rows * (tile.height + STRIP as usize)) as f64;
        // Empty places at the end count a little, too.
        (shape / wanted).ln().abs() + 0.1 * (rows * columns - tiles.min(rows * columns)) as f64
    };
    (1..=tiles.max(1)).min_by(|&a, &b| off(a).total_cmp(&off(b))).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Colour;

    #[test]
    fn at_most_sixteen_frames_are_chosen_and_the_ends_are_among_them() {
        assert_eq!(evenly_spaced(&(5..8)), [5, 6, 7]);
        assert_eq!(evenly_spaced(&(0..96)), [0, 6, 13, 19, 25, 32, 38, 44, 51, 57, 63, 70, 76, 82, 89, 95]);
        let tight = evenly_spaced(&(10..27));
        assert_eq!((tight.len(), tight[0], tight[15]), (16, 10, 26));
        assert!(tight.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn sixteen_square_tiles_make_four_rows_or_fewer() {
        let square = Size { width: 320, height: 320 };
        assert_eq!((columns(16, square), columns(1, square), columns(2, square)), (4, 1, 2));
        assert_eq!(columns(16, Size { width: 320, height: 40 }), 2);
    }

    #[test]
    fn only_the_chosen_frames_are_kept() {
        let size = Size { width: 64, height: 48 };
        let mut sheet = ContactSheet::new(size, 100, &(0..100)).unwrap();
        for index in 0..100 {
            let frame = Frame::new(size, Colour::Grey, vec![index as u8; size.area()]).unwrap();
            sheet.offer(index, &frame, &Mask { size, pixels: vec![0; size.area()] }).unwrap();
        }
        assert_eq!(sheet.tiles.len(), 16);
        let values: Vec<usize> = sheet.tiles.iter().map(|tile| tile.get_pixel(100, 100).0[0].into()).collect();
        assert_eq!(values, sheet.chosen);
        let picture = sheet.finish().unwrap();
        assert_eq!(picture.size(), Size { width: 4 * 326 + 6, height: 4 * 270 + 6 });
    }
}
