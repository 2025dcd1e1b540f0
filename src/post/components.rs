//! Connected components of a mask, 8-connected, and the removal of the small ones.
//!
//! Not pixels but runs of a row are united, so that the background, which is most of a mask, costs a look at each pixel.

use crate::media::Mask;
use std::ops::Range;

/// Clears every 8-connected component of fewer than `minimum` pixels.
pub fn remove_small_components(mask: &mut Mask, minimum: usize) {
    let width = mask.size.width;
    if minimum <= 1 || width == 0 {
        return;
    }
    let mut components = Components::default();
    for row in mask.pixels.chunks_exact(width) {
        components.add_row(row);
    }
    let areas = components.areas();
    for (run, pixels) in components.runs.into_iter().enumerate() {
        if areas[run] < minimum {
            mask.pixels[pixels].fill(0);
        }
    }
}

/// A forest of runs, row by row: vessel pixels of a row that lie side by side.
#[derive(Default)]
struct Components {
    /// Where each run's pixels lie in the mask.
    runs: Vec<Range<usize>>,
    /// A run of the same component, the run itself where it is the component's first one.
    parents: Vec<usize>,
    /// The runs of the last row, and where the next row begins.
    above: Range<usize>,
    next_row: usize,
}

impl Components {
    fn add_row(&mut self, row: &[u8]) {
        let (begin, first) = (self.next_row, self.runs.len());
        let (mut touching, mut at) = (self.above.start, 0);
        while let Some(gap) = row[at..].iter().position(|&pixel| pixel != 0) {
            let start = at + gap;
            let end = row[start..].iter().position(|&pixel| pixel == 0).map_or(row.len(), |len| start + len);
            let run = self.runs.len();
            self.runs.push(begin + start..begin + end);
            self.parents.push(run);
            // In the row above, the pixels over the run and one more on each side touch it.
            let over = |other: &Range<usize>| (other.start + row.len() - begin, other.end + row.len() - begin);
            while touching < self.above.end && over(&self.runs[touching]).1 < start {
                touching += 1;
            }
            for other in touching..self.above.end {
                if over(&self.runs[other]).0 > end {
                    break;
                }
                self.unite(run, other);
            }
            at = end;
        }
        self.above = first..self.runs.len();
        self.next_row = begin + row.len();
    }

    /// The first run of a run's component.
    fn first(&mut self, mut run: usize) -> usize {
        while self.parents[run] != run {
            self.parents[run] = self.parents[self.parents[run]];
            run = self.parents[run];
        }
        run
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.parents[a.max(b)] = a.min(b);
    }

    /// Of each run, the pixels of its component.
    fn areas(&mut self) -> Vec<usize> {
        let firsts: Vec<usize> = (0..self.runs.len()).map(|run| self.first(run)).collect();
        let mut areas = vec![0; self.runs.len()];
        self.runs.iter().zip(&firsts).for_each(|(pixels, &first)| areas[first] += pixels.len());
        firsts.into_iter().map(|first| areas[first]).collect()
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
    fn a_run_that_ends_a_row_and_one_that_begins_the_next_are_apart() {
        assert_eq!(without_small(&["..##", "#..."], 3).vessel_pixels(), 0);
        assert_eq!(without_small(&["#..#", ".##."], 4), mask(&["#..#", ".##."]));
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
            width in 1usize..12, height in 1usize..12, minimum in 0usize..30,
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
