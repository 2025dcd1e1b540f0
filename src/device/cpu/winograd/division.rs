//! Tiles, and how they are divided among threads.

use super::{Tile, share};
use crate::device::cpu::layout::{padded, panels};
use crate::graph::Shape;
use crate::ops::Conv;
use std::ops::Range;

/// Where a tile's results begin; those of a row are `dilation` pixels apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub sample: u32,
    pub row: u32,
    pub column: u32,
}

/// Numbers that a task's transformed pixels and sums may take, so that they stay in the second-level cache.
const BLOCK: usize = 128 * 1024;
/// The fewest and the most tiles of a block; the filter goes by once for each block.
const TILES: std::ops::RangeInclusive<usize> = 24..=48;
/// The most tiles of a part, of whose results the statistics are taken together; a block has whole parts.
const PART: usize = 8;
/// The fewest parts of a sample that has more tiles than that, so that blocks can be about as large.
const PARTS: usize = 64;

/// How the work is divided. Sums do not depend on it, and what is found of parts does not depend on the threads.
#[derive(Debug)]
pub(super) struct Division {
    pub places: Vec<Place>,
    /// Tiles of a sample, and of each of its parts but the last.
    tiles: usize,
    part: usize,
    pub blocks: usize,
    /// What the panels are divided into, where there are fewer blocks than threads.
    pub shares: usize,
}

impl Division {
    pub fn new(tile: Tile, conv: &Conv, (maps, filter): (Shape, Shape), threads: usize) -> Division {
        let (Shape::Maps { batch, channels, height, width }, Shape::Filter { outputs, .. }) = (maps, filter) else {
            unreachable!("a convolution reads maps and a filter")
        };
        let size = |source| conv.output_size(source, 3).unwrap_or(0);
        let places = places(tile, batch, (size(height), size(width)), conv.dilation);
        let panels = panels(outputs);
        let tiles = places.len() / batch.max(1);
        let part = (tiles / PARTS).next_power_of_two().min(PART);
        let fitting = BLOCK / (tile.points() * (padded(channels) + panels[0].width));
        let most = fitting.clamp(*TILES.start(), *TILES.end());
        let mut blocks = places.len().div_ceil(most);
        if blocks < 8 * threads {
            blocks = blocks.next_multiple_of(threads).min(places.len().div_ceil(6));
        }
        let mut division = Division { places, tiles, part, blocks, shares: 1 };
        division.blocks = blocks.min(batch * division.parts());
        division.shares = threads.div_ceil(division.blocks.max(1)).min(panels.len());
        division
    }

    /// Parts of a sample.
    pub fn parts(&self) -> usize {
        self.tiles.div_ceil(self.part)
    }

    /// Where a part of a sample, counted from the first sample's first one on, begins.
    pub fn first_tile(&self, part: usize) -> usize {
        part / self.parts() * self.tiles + part % self.parts() * self.part
    }

    /// The parts of a block.
    pub fn block(&self, block: usize) -> Range<usize> {
        let samples = self.places.len() / self.tiles.max(1);
        share(samples * self.parts(), block, self.blocks)
    }

    /// The tiles of some parts.
    pub fn tiles_of(&self, parts: Range<usize>) -> Range<usize> {
        self.first_tile(parts.start)..self.first_tile(parts.end)
    }

    pub fn most_tiles(&self) -> usize {
        (0..self.blocks).map(|block| self.tiles_of(self.block(block)).len()).max().unwrap_or(0)
    }
}

/// The tiles of all phases of all samples.
fn places(tile: Tile, batch: usize, (rows, columns): (usize, usize), dilation: usize) -> Vec<Place> {
    let starts = |size: usize| -> Vec<u32> {
        let phases = (0..dilation.min(size)).flat_map(|phase| (phase..size).step_by(dilation * tile.made()));
        phases.map(|at| at as u32).collect()
    };
    let (rows, columns) = (starts(rows), starts(columns));
    let mut places = Vec::with_capacity(batch * rows.len() * columns.len());
    for sample in 0..batch as u32 {
        for &row in &rows {
            places.extend(columns.iter().map(|&column| Place { sample, row, column }));
        }
    }
    places
}
