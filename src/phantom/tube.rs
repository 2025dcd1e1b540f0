//! Tubes on the detector: how much of each lies in the way of the beam, and which pixels they cover.

use super::c_arm::OnDetector;

/// One cross-section of a tube.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its centre.
    pub centre: OnDetector,
    /// Its radius in mm.
    pub radius: f64,
    /// 1 / mm of attenuation at its centre.
    pub attenuation: f64,
    /// 1 where the tube runs across the beam, more where the beam runs along it.
    pub obliqueness: f64,
    /// Whether its pixels belong to the mask.
    pub in_mask: bool,
    /// Change of attenuation from the centre to the wall on the right of the way, as a share.
    pub uneven: f64,
}

/// Paints tubes into maps of `width` x `height` pixels.
///
/// A tube's own joints count once: a pixel takes the longest way through neighbouring sections. A tube that crosses
/// itself, and tubes that cross each other, add up.
#[derive(Debug)]
pub struct TubePainter {
    width: usize,
    height: usize,
    cells: Vec<Cell>,
    touched: Vec<u32>,
}

/// What the tube at hand has put on a pixel: its latest section there and the longest way through it.
#[derive(Debug, Clone, Copy)]
struct Cell {
    section: u32,
    depth: f32,
}

const UNTOUCHED: u32 = u32::MAX;

impl TubePainter {
    /// For maps of this size.
    pub fn new(width: usize, height: usize) -> TubePainter {
        let cells = vec![Cell { section: UNTOUCHED, depth: 0.0 }; width * height];
        TubePainter { width, height, cells, touched: Vec::new() }
    }

    /// Adds a tube to `depth` (attenuation times mm) and, where its sections say so, to `mask` (255).
    pub fn paint(&mut self, sections: &[Section], depth: &mut [f32], mut mask: Option<&mut [u8]>) {
        for (index, pair) in sections.windows(2).enumerate() {
            self.paint_piece(index as u32, pair[0], pair[1], depth, mask.as_deref_mut());
        }
        for pixel in self.touched.drain(..) {
            let cell = &mut self.cells[pixel as usize];
            depth[pixel as usize] += cell.depth;
            *cell = Cell { section: UNTOUCHED, depth: 0.0 };
        }
    }

    fn paint_piece(&mut self, index: u32, from: Section, to: Section, depth: &mut [f32], mut mask: Option<&mut [u8]>) {
        let (a, b) = (from.centre, to.centre);
        let (ra, rb) = (from.radius * a.scale, to.radius * b.scale);
        let reach = ra.max(rb);
        let range = |low: f64, high: f64, end: usize| {
            let first = (low - reach).ceil().max(0.0) as usize;
            let last = (high + reach).floor().min(end as f64 - 1.0);
            if last < 0.0 { 0..0 } else { first..last as usize + 1 }
        };
        let (dx, dy) = (b.x - a.x, b.y - a.y);
        let length2 = dx * dx + dy * dy;
        // Sections further back than this along the tube are another limb of a loop.
        let step = length2.sqrt().max(0.25);
        let limb = (3.0 * reach / step).ceil() as u32 + 2;
        for y in range(a.y.min(b.y), a.y.max(b.y), self.height) {
            for x in range(a.x.min(b.x), a.x.max(b.x), self.width) {
                let (px, py) = (x as f64 - a.x, y as f64 - a.y);
                let t = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
                let (hx, hy) = (px - t * dx, py - t * dy);
                let (distance2, radius) = (hx * hx + hy * hy, ra + t * (rb - ra));
                if distance2 >= radius * radius {
                    continue;
                }
                let mix = |a: f64, b: f64| a + t * (b - a);
                let chord = 2.0 * (radius * radius - distance2).sqrt() / mix(a.scale, b.scale);
                let side = if length2 > 0.0 { (dx * hy - dy * hx) / (length2.sqrt() * radius) } else { 0.0 };
                let shade = (1.0 + mix(from.uneven, to.uneven) * side).max(0.0);
                let attenuation = mix(from.attenuation, to.attenuation) * shade;
                let value = (chord * mix(from.obliqueness, to.obliqueness) * attenuation) as f32;
                let pixel = y * self.width + x;
                let cell = &mut self.cells[pixel];
                if cell.section == UNTOUCHED {
                    self.touched.push(pixel as u32);
                    cell.depth = value;
                } else if index - cell.section > limb {
                    depth[pixel] += cell.depth;
                    cell.depth = value;
                } else if value.abs() > cell.depth.abs() {
                    cell.depth = value;
                }
                cell.section = index;
                if let Some(mask) = mask.as_deref_mut()
                    && from.in_mask
                {
                    mask[pixel] = 255;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    fn section(x: f64, y: f64) -> Section {
        let centre = OnDetector { x, y, scale: 2.0 };
        Section { centre, radius: 2.5, attenuation: 0.1, obliqueness: 1.0, in_mask: true, uneven: 0.0 }
    }

    /// A radius of 2.5 mm at 2 pixels a mm: 5 pixels to each side.
    #[test]
    fn a_straight_tube_has_the_chords_of_a_circle_and_its_own_width() {
        let sections: Vec<Section> = (0..=40).map(|i| section(20.0 + f64::from(i) * 0.5, 30.0)).collect();
        let (mut depth, mut mask) = (vec![0.0; 64 * 64], vec![0; 64 * 64]);
        TubePainter::new(64, 64).paint(&sections, &mut depth, Some(&mut mask));
        for offset in -6i32..=6 {
            let pixel = (30 + offset) as usize * 64 + 30;
            let chord = 2.0 * (25.0 - f64::from(offset * offset)).max(0.0).sqrt() / 2.0;
            assert_abs_diff_eq!(f64::from(depth[pixel]), 0.1 * chord, epsilon = 1e-6);
            assert_eq!(mask[pixel] == 255, offset.abs() < 5, "{offset}");
        }
    }

    #[test]
    fn crossings_add_up_joints_do_not_and_a_second_tube_starts_afresh() {
        let across: Vec<Section> = (0..60).map(|i| section(f64::from(i), 30.0)).collect();
        let down: Vec<Section> = (0..60).map(|i| section(30.0, f64::from(i))).collect();
        let loop_back =
            [&across[..], &(0..30).map(|i| section(59.0, 30.0 + f64::from(i))).collect::<Vec<_>>()].concat();
        let single = 0.1 * 5.0;
        let mut painter = TubePainter::new(64, 64);
        let mut depth = vec![0.0; 64 * 64];
        painter.paint(&across, &mut depth, None);
        painter.paint(&down, &mut depth, None);
        assert_abs_diff_eq!(depth[30 * 64 + 30], 2.0 * single as f32, epsilon = 1e-5);
        assert_abs_diff_eq!(depth[30 * 64 + 10], single as f32, epsilon = 1e-5);
        let mut depth = vec![0.0; 64 * 64];
        painter.paint(&loop_back, &mut depth, None);
        assert_abs_diff_eq!(depth[30 * 64 + 59], single as f32, epsilon = 1e-5);
    }

    #[test]
    fn a_tube_that_crosses_itself_adds_up() {
        // Right, then in a wide loop back through its own middle.
        let mut way: Vec<(f64, f64)> = (0..50).map(|i| (5.0 + f64::from(i), 40.0)).collect();
        way.extend((0..30).map(|i| (54.0, 40.0 - f64::from(i))));
        way.extend((0..30).map(|i| (54.0 - f64::from(i), 10.0)));
        way.extend((0..50).map(|i| (24.0, 10.0 + f64::from(i))));
        let sections: Vec<Section> = way.into_iter().map(|(x, y)| section(x, y)).collect();
        let mut depth = vec![0.0; 64 * 64];
        TubePainter::new(64, 64).paint(&sections, &mut depth, None);
        assert_abs_diff_eq!(depth[40 * 64 + 24], 1.0, epsilon = 1e-5);
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let sections: Vec<Section> = (0..40).map(|i| section(f64::from(i) - 20.0, -3.0)).collect();
        let mut depth = vec![0.0; 16 * 16];
        TubePainter::new(16, 16).paint(&sections, &mut depth, None);
        assert!(depth[5 * 16..].iter().all(|&d| d == 0.0));
        assert!(depth[..16].iter().any(|&d| d > 0.0));
    }
}
