//! Connected components of a mask, 8-connected, and the removal of the small ones.

use crate::media::Mask;
use image::{GrayImage, Luma};
use imageproc::region_labelling::{Connectivity, connected_components};

/// Clears every 8-connected component of fewer than `minimum` pixels.
pub fn remove_small_components(mask: &mut Mask, minimum: usize) {
    let (Ok(width), Ok(height)) = (u32::try_from(mask.size.width), u32::try_from(mask.size.height)) else {
        return;
    };
    if minimum <= 1 || mask.vessel_pixels() == 0 {
        return;
    }
    if mask.size.area() == 1 {
        // imageproc 0.27 numbers components from 1 but has room for one number per pixel only, and panics here.
        mask.pixels.fill(0);
        return;
    }
    let Some(image) = GrayImage::from_raw(width, height, std::mem::take(&mut mask.pixels)) else {
        return;
    };
    let labels = connected_components(&image, Connectivity::Eight, Luma([0]));
    mask.pixels = image.into_raw();

    // Label 0 is the background; it only ever clears pixels that are clear.
    let mut areas: Vec<usize> = Vec::new();
    for &label in labels.as_raw() {
        let label = label as usize;
        if label >= areas.len() {
            areas.resize(label + 1, 0);
        }
        areas[label] += 1;
    }
    for (pixel, &label) in mask.pixels.iter_mut().zip(labels.as_raw()) {
        if areas[label as usize] < minimum {
            *pixel = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Size;
    use proptest::prelude::*;

    /// `#` is vessel.
    fn mask(rows: &[&str]) -> Mask {
        let size = Size { width: rows[0].len(), height: rows.len() };
        let pixels = rows.iter().flat_map(|row| row.bytes().map(|b| if b == b'#' { 255 } else { 0 })).collect();
        Mask { size, pixels }
    }

    fn without_small(rows: &[&str], minimum: usize) -> Mask {
        let mut mask = mask(rows);
        remove_small_components(&mut mask, minimum);
        mask
    }

    #[test]
    fn a_component_of_exactly_the_minimum_stays() {
        let rows = ["##..#", ".....", "###.."];
        assert_eq!(without_small(&rows, 2), mask(&["##...", ".....", "###.."]));
        assert_eq!(without_small(&rows, 3), mask(&[".....", ".....", "###.."]));
        assert_eq!(without_small(&rows, 4), mask(&[".....", ".....", "....."]));
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_one_component() {
        let diagonal = ["#...", ".#..", "..#.", "...#"];
        assert_eq!(without_small(&diagonal, 4), mask(&diagonal));
        let anti = ["..#", ".#.", "#.."];
        assert_eq!(without_small(&anti, 3), mask(&anti));
    }

    #[test]
    fn a_u_shape_whose_arms_meet_late_is_one_component() {
        let rows = ["#...#", "#...#", "#####"];
        assert_eq!(without_small(&rows, 9), mask(&rows));
        assert_eq!(without_small(&rows, 10).vessel_pixels(), 0);
    }

    #[test]
    fn a_minimum_of_0_or_1_and_an_empty_mask_change_nothing() {
        let rows = ["#.#", "...", "#.#"];
        assert_eq!(without_small(&rows, 0), mask(&rows));
        assert_eq!(without_small(&rows, 1), mask(&rows));
        assert_eq!(without_small(&["...", "..."], 2), mask(&["...", "..."]));
    }

    #[test]
    fn an_image_of_one_pixel_is_too_small_for_a_minimum_of_two() {
        assert_eq!(without_small(&["#"], 2), mask(&["."]));
        assert_eq!(without_small(&["#"], 1), mask(&["#"]));
    }

    /// The plain way: flood fill from every pixel.
    fn component_of(mask: &Mask, start: usize) -> usize {
        let (w, h) = (mask.size.width as isize, mask.size.height as isize);
        let mut seen = vec![false; mask.pixels.len()];
        let mut open = vec![start];
        seen[start] = true;
        let mut area = 0;
        while let Some(at) = open.pop() {
            area += 1;
            let (x, y) = (at as isize % w, at as isize / w);
            for (dx, dy) in (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| (dx, dy))) {
                let (x, y) = (x + dx, y + dy);
                if (0..w).contains(&x) && (0..h).contains(&y) {
                    let next = (y * w + x) as usize;
                    if mask.pixels[next] != 0 && !seen[next] {
                        seen[next] = true;
                        open.push(next);
                    }
                }
            }
        }
        area
    }

    proptest! {
        #[test]
        fn exactly_the_components_below_the_minimum_go(
            width in 1usize..12, height in 1usize..12, minimum in 0usize..9,
            vessel in proptest::collection::vec(any::<bool>(), 144),
        ) {
            let size = Size { width, height };
            let pixels = vessel[..size.area()].iter().map(|&v| if v { 255 } else { 0 }).collect();
            let before = Mask { size, pixels };
            let mut after = before.clone();
            remove_small_components(&mut after, minimum);
            for i in 0..size.area() {
                let stays = before.pixels[i] != 0 && component_of(&before, i) >= minimum;
                prop_assert_eq!(after.pixels[i], if stays { 255 } else { 0 });
            }
        }
    }
}
