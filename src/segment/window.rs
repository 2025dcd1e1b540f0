//! The 2N+1 frames the network looks at, sliding over a clip whose ends are repeated.

use crate::media::Frame;
use std::collections::VecDeque;

/// A frame ready for the network.
pub(super) struct Prepared {
    /// Its number in the whole clip.
    pub index: usize,
    /// The frame as it was read, if it gets a mask itself or goes to the device.
    pub frame: Option<Frame>,
    /// What the network reads, `[C, H, W]`; empty where the device prepares the frame.
    pub planes: Vec<f32>,
}

/// Consecutive prepared frames, at most 2N+1 of them, each held once.
pub(super) struct Window {
    neighbours: usize,
    /// The clip's last frame.
    last: usize,
    ring: VecDeque<Prepared>,
}

impl Window {
    /// A window with `neighbours` on each side over a clip of `total` frames, at least one.
    pub fn new(neighbours: usize, total: usize) -> Window {
        Window { neighbours, last: total - 1, ring: VecDeque::new() }
    }

    /// The clip ends with frame `last`.
    pub fn end_at(&mut self, last: usize) {
        self.last = last;
    }

    /// Whether another frame is needed before [`Window::around`] can answer for `middle`.
    pub fn wants_for(&self, middle: usize) -> bool {
        let newest = middle.saturating_add(self.neighbours).min(self.last);
        self.ring.back().is_none_or(|prepared| prepared.index < newest)
    }

    /// Takes the next frame; lets go of those that lie before every window to come.
    pub fn push(&mut self, prepared: Prepared) {
        // The window that needs this frame as its newest reaches back 2N frames from it.
        let oldest = prepared.index.saturating_sub(self.neighbours.saturating_mul(2));
        while self.ring.front().is_some_and(|front| front.index < oldest) {
            self.ring.pop_front();
        }
        self.ring.push_back(prepared);
    }

    /// The 2N+1 frames around `middle`, oldest first, the clip's first and last frame repeated beyond its ends.
    pub fn around(&self, middle: usize) -> Vec<&[f32]> {
        let first = self.ring.front().map_or(0, |prepared| prepared.index);
        self.numbers_around(middle).map(|index| self.ring[index - first].planes.as_slice()).collect()
    }

    /// Where the same frames lie on a device that holds 2N+1 of them.
    pub fn places_around(&self, middle: usize) -> Vec<usize> {
        self.numbers_around(middle).map(|index| self.place(index)).collect()
    }

    /// Where frame `index` lies on such a device: in the place of one that no window needs any more.
    pub fn place(&self, index: usize) -> usize {
        index % (2 * self.neighbours + 1)
    }

    fn numbers_around(&self, middle: usize) -> impl Iterator<Item = usize> {
        let (neighbours, last) = (self.neighbours, self.last);
        let before = (1..=neighbours).rev().map(move |distance| middle.saturating_sub(distance));
        before.chain((0..=neighbours).map(move |distance| middle.saturating_add(distance).min(last)))
    }

    /// Gives `index`'s own frame away, once.
    pub fn take_frame(&mut self, index: usize) -> Option<Frame> {
        self.ring.iter_mut().find(|prepared| prepared.index == index)?.frame.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the frames in every window of a clip, with frames fed only when asked for.
    fn windows(neighbours: usize, total: usize) -> Vec<Vec<usize>> {
        let mut window = Window::new(neighbours, total);
        let mut next = 0;
        (0..total)
            .map(|middle| {
                while window.wants_for(middle) {
                    window.push(Prepared { index: next, frame: None, planes: vec![next as f32] });
                    next += 1;
                }
                assert!(window.ring.len() <= 2 * neighbours + 1);
                let numbers: Vec<usize> = window.around(middle).iter().map(|planes| planes[0] as usize).collect();
                // On a device each of them must still lie in its place.
                let held = |place: usize| (0..next).rev().find(|&index| window.place(index) == place).unwrap();
                let on_device: Vec<usize> = window.places_around(middle).into_iter().map(held).collect();
                assert_eq!(on_device, numbers);
                numbers
            })
            .collect()
    }

    #[test]
    fn the_ends_of_the_clip_are_repeated() {
        assert_eq!(windows(1, 4), [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]);
        assert_eq!(windows(2, 3), [[0, 0, 0, 1, 2], [0, 0, 1, 2, 2], [0, 1, 2, 2, 2]]);
        assert_eq!(windows(0, 3), [[0], [1], [2]]);
        assert_eq!(windows(3, 1), [[0; 7]]);
        assert_eq!(windows(3, 2), [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]);
    }
}
