//! Thinning: a mask becomes lines about one pixel wide along its middle.
//!
//! Zhang and Suen, Communications of the ACM 27(3):236 (1984), in the variant that scikit-image calls by that name
//! and with its result, pixel by pixel: `skimage.morphology.skeletonize(mask, method="zhang")`.

use crate::media::Mask;

/// The pixel may go in the first pass of a round, which takes pixels from the south-east side.
const FIRST: u8 = 1;
/// The pixel may go in the second pass, which takes pixels from the north-west side.
const SECOND: u8 = 2;
const BOTH: u8 = FIRST | SECOND;
const NEITHER: u8 = 0;

/// For each neighbourhood, in which passes the pixel in its middle may go. Bit i is the i-th neighbour clockwise from
/// north: the article's P2 to P9.
static REMOVAL: [u8; 256] = removal();

/// Neighbourhoods of which scikit-image judges otherwise than the article: it also takes the corners of staircases,
/// which leaves thinner lines, and takes fewer ends, which keeps a square of four pixels from vanishing.
const DEPARTURES: [(&[u8; 11], u8); 25] = [
    (b".#. .o# ...", BOTH),
    (b"... .o# .#.", BOTH),
    (b"... #o. .#.", BOTH),
    (b".#. #o. ...", BOTH),
    (b"##. .o# ...", FIRST),
    (b".## #o. ...", FIRST),
    (b"#.. #o. .#.", FIRST),
    (b".#. #o. #..", FIRST),
    (b".## #o. #..", FIRST),
    (b".#. .o# ..#", SECOND),
    (b"... .o# ##.", SECOND),
    (b"... #o. .##", SECOND),
    (b"..# .o# ##.", SECOND),
    (b"##. .o. ...", FIRST),
    (b".## .o. ...", FIRST),
    (b"..# .o# ...", FIRST),
    (b".## .o# ...", FIRST),
    (b"##. #o. ...", FIRST),
    (b"... .o# ..#", SECOND),
    (b"... .o# .##", SECOND),
    (b"... .o. ##.", SECOND),
    (b"... #o. #..", SECOND),
    (b"... #o. ##.", SECOND),
    (b"... .o. .##", NEITHER),
    (b"#.. #o. ...", NEITHER),
];

const fn removal() -> [u8; 256] {
    let mut table = [NEITHER; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = article(code);
        code += 1;
    }
    let mut i = 0;
    while i < DEPARTURES.len() {
        table[code_of(DEPARTURES[i].0)] = DEPARTURES[i].1;
        i += 1;
    }
    table
}

/// The article's conditions: two to six neighbours, one step from background to vessel on the way round, and
/// background on the side that the pass takes from.
const fn article(code: usize) -> u8 {
    const NORTH: usize = 1;
    const EAST: usize = 1 << 2;
    const SOUTH: usize = 1 << 4;
    const WEST: usize = 1 << 6;
    let mut steps = 0;
    let mut i = 0;
    while i < 8 {
        if (code >> i) & 1 == 0 && (code >> ((i + 1) % 8)) & 1 == 1 {
            steps += 1;
        }
        i += 1;
    }
    let neighbours = code.count_ones();
    if steps != 1 || neighbours < 2 || neighbours > 6 {
        return NEITHER;
    }
    let mut passes = NEITHER;
    if !all(code, NORTH | EAST | SOUTH) && !all(code, EAST | SOUTH | WEST) {
        passes |= FIRST;
    }
    if !all(code, NORTH | EAST | WEST) && !all(code, NORTH | SOUTH | WEST) {
        passes |= SECOND;
    }
    passes
}

/// Whether all the bits of `of` are set.
const fn all(code: usize, of: usize) -> bool {
    code & of == of
}

/// The bits of a neighbourhood drawn as three rows.
const fn code_of(drawing: &[u8; 11]) -> usize {
    const CLOCKWISE_FROM_NORTH: [usize; 8] = [1, 2, 6, 10, 9, 8, 4, 0];
    let mut code = 0;
    let mut i = 0;
    while i < 8 {
        if drawing[CLOCKWISE_FROM_NORTH[i]] == b'#' {
            code |= 1 << i;
        }
        i += 1;
    }
    code
}

/// The skeleton of `mask`, of the same size: a subset of its pixels from which nothing more can be taken. Beyond the
/// image's edge lies background.
pub fn skeletonize(mask: &Mask) -> Mask {
    let mut thinning = Thinning::new(mask);
    while thinning.waiting.iter().any(|pixels| !pixels.is_empty()) {
        thinning.pass(0);
        thinning.pass(1);
    }
    thinning.mask(mask)
}

/// A mask that is being thinned, with a frame of background around it.
struct Thinning {
    /// Width with the frame.
    stride: usize,
    vessel: Vec<bool>,
    /// The neighbourhood of every pixel, as bits.
    around: Vec<u8>,
    /// For each of the two passes, the pixels whose neighbourhood has changed since that pass last saw them: no other
    /// pixel can go.
    waiting: [Vec<usize>; 2],
    /// In which of these lists a pixel is, as bits.
    listed: Vec<u8>,
}

impl Thinning {
    fn new(mask: &Mask) -> Thinning {
        let stride = mask.size.width + 2;
        let area = stride * (mask.size.height + 2);
        let mut thinning = Thinning {
            stride,
            vessel: vec![false; area],
            around: vec![0; area],
            waiting: [Vec::new(), Vec::new()],
            listed: vec![0; area],
        };
        let mut pixels = Vec::new();
        for (y, row) in mask.pixels.chunks(mask.size.width.max(1)).take(mask.size.height).enumerate() {
            let start = (y + 1) * stride + 1;
            pixels.extend((start..).zip(row).filter(|(_, value)| **value != 0).map(|(at, _)| at));
        }
        for &at in &pixels {
            thinning.vessel[at] = true;
            for (direction, neighbour) in neighbours(at, stride) {
                thinning.around[neighbour] |= opposite(direction);
            }
        }
        pixels.into_iter().for_each(|at| thinning.list(at));
        thinning
    }

    /// Puts a pixel on both lists, unless background is nowhere near it.
    fn list(&mut self, at: usize) {
        if self.around[at] == u8::MAX {
            return;
        }
        for (pass, pixels) in self.waiting.iter_mut().enumerate() {
            if self.listed[at] & (1 << pass) == 0 {
                self.listed[at] |= 1 << pass;
                pixels.push(at);
            }
        }
    }

    /// Takes all pixels at once that may go in this pass, 0 or 1.
    fn pass(&mut self, pass: usize) {
        let mut candidates = std::mem::take(&mut self.waiting[pass]);
        let bit = 1 << pass;
        candidates.iter().for_each(|&at| self.listed[at] &= !bit);
        candidates.retain(|&at| self.vessel[at] && REMOVAL[usize::from(self.around[at])] & bit != 0);
        for &at in &candidates {
            self.vessel[at] = false;
        }
        for at in candidates {
            for (direction, neighbour) in neighbours(at, self.stride) {
                self.around[neighbour] &= !opposite(direction);
                if self.vessel[neighbour] {
                    self.list(neighbour);
                }
            }
        }
    }

    fn mask(&self, before: &Mask) -> Mask {
        let rows = self.vessel.chunks(self.stride).skip(1).take(before.size.height);
        let pixels = rows.flat_map(|row| &row[1..=before.size.width]).map(|&v| if v { 255 } else { 0 }).collect();
        Mask { size: before.size, pixels }
    }
}

/// The eight neighbours of a pixel inside the frame, clockwise from north, with their numbers.
fn neighbours(at: usize, stride: usize) -> impl Iterator<Item = (usize, usize)> {
    let (north, south) = (at - stride, at + stride);
    [north, north + 1, at + 1, south + 1, south, south - 1, at - 1, north - 1].into_iter().enumerate()
}

/// The bit under which the neighbour in `direction` knows the pixel.
fn opposite(direction: usize) -> u8 {
    1 << ((direction + 4) % 8)
}

#[cfg(test)]
mod tests {
    use super::super::drawing::{mask, moved, pair, rows};
    use super::*;
    use crate::media::Size;
    use imageproc::region_labelling::{Connectivity, connected_components};
    use proptest::prelude::*;

    fn thinned(drawing: &[&str]) -> Vec<String> {
        rows(&skeletonize(&mask(drawing)))
    }

    #[test]
    fn nothing_of_a_thin_line_goes_and_nothing_comes_of_nothing() {
        for drawing in [
            &["....", "....", "...."][..],
            &["....", ".#..", "...."],
            &["#####"],
            &["#", "#", "#"],
            &["#...", ".#..", "..#.", "...#"],
            &["#....", "..#..", "....#"],
        ] {
            assert_eq!(thinned(drawing), drawing);
        }
        let none = Mask { size: Size { width: 0, height: 3 }, pixels: Vec::new() };
        assert_eq!(skeletonize(&none), none);
    }

    /// Of odd width, but the two sides are not taken alike: one end turns off to a corner.
    #[test]
    fn a_bar_becomes_its_middle_line() {
        assert_eq!(thinned(&["#######", "#######", "#######"]), [".....#.", "#####..", "......."]);
    }

    #[test]
    fn a_square_of_four_pixels_does_not_vanish() {
        assert_eq!(thinned(&["....", ".##.", ".##.", "...."]), ["....", ".##.", "....", "...."]);
    }

    #[test]
    fn a_ring_stays_a_ring() {
        assert_eq!(
            thinned(&["#####", "#...#", "#...#", "#...#", "#####"]),
            [".###.", "#...#", "#...#", "#...#", ".###."]
        );
    }

    #[test]
    fn the_departures_are_departures_and_are_listed_once() {
        let mut codes: Vec<usize> = DEPARTURES.iter().map(|(drawing, _)| code_of(drawing)).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), DEPARTURES.len());
        for (drawing, passes) in DEPARTURES {
            assert_ne!(article(code_of(drawing)), passes, "{}", String::from_utf8_lossy(drawing));
        }
    }

    fn components(mask: &Mask) -> u32 {
        let framed = moved(mask, 1, 1);
        let (width, height) = (framed.size.width as u32, framed.size.height as u32);
        let image = image::GrayImage::from_raw(width, height, framed.pixels).unwrap();
        connected_components(&image, Connectivity::Eight, image::Luma([0])).iter().copied().max().unwrap()
    }

    /// Every pixel looked at in every pass, with all decisions made before the first pixel goes.
    fn plainly(mask: &Mask) -> Mask {
        let mut thinning = Thinning::new(mask);
        loop {
            let before = thinning.vessel.clone();
            for pass in 0..2 {
                thinning.waiting[pass] = (0..before.len()).filter(|&at| thinning.vessel[at]).collect();
                thinning.pass(pass);
            }
            if thinning.vessel == before {
                return thinning.mask(mask);
            }
        }
    }

    proptest! {
        #[test]
        fn a_skeleton_is_a_part_of_its_mask_in_as_many_pieces_and_thin_for_good((mask, _) in pair()) {
            let skeleton = skeletonize(&mask);
            prop_assert!(skeleton.pixels.iter().zip(&mask.pixels).all(|(s, m)| s & !m == 0));
            prop_assert_eq!(components(&skeleton), components(&mask));
            prop_assert_eq!(&skeletonize(&skeleton), &skeleton);
            prop_assert_eq!(&plainly(&mask), &skeleton);
        }

        #[test]
        fn a_skeleton_moves_with_its_mask((mask, _) in pair(), left in 0usize..4, top in 0usize..4) {
            prop_assert_eq!(skeletonize(&moved(&mask, left, top)), moved(&skeletonize(&mask), left, top));
        }
    }
}
