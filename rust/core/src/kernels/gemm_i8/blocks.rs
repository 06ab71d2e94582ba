//! The form of a dense weight that matrix units read.

use crate::weight::{QUAD, TILE, TilesI8};

/// Groups of four columns that a block has at most: what a row of a matrix unit's register holds.
const MAX_QUADS: usize = 16;

/// A cache line of weights.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([[i8; QUAD]; TILE]);

/// Blocks of a depth that is walked at once: their part of the panel, 4 KiB each, just fits a first-level cache of 48 KiB.
const AT_ONCE: usize = 9;

/// Blocks of a part where the depth is walked in parts: beside their panel there is room for what passes by.
const NEAR: usize = 6;

/// A dense weight in blocks of sixteen rows by a few groups of four columns, `[16][quads][4]`: a row's columns lie side by
/// side.
///
/// All blocks are equally deep, so that registers are laid out once for all of them; what pads the last is zero. They lie in
/// the order in which they are read, since much of a network's weights comes from far away: a few tiles of rows are a group,
/// a few blocks of depth a part, and within a group part follows part, within a part tile follows tile.
#[derive(Clone, Debug)]
pub struct Blocks {
    k: usize,
    tiles: usize,
    count: usize,
    quads: usize,
    near: usize,
    lines: Vec<Line>,
}

impl Blocks {
    /// Tiles of rows of a group, where the depth is walked in parts; a group is one tile where it is not.
    pub const GROUP: usize = 4;

    /// Of the form that a file has.
    pub fn new(weight: &TilesI8<'_>) -> Blocks {
        let count = weight.quads().div_ceil(MAX_QUADS);
        let quads = weight.quads().div_ceil(count.max(1));
        let near = if count <= AT_ONCE { count } else { count.div_ceil(count.div_ceil(NEAR)) };
        let tiles = weight.m().div_ceil(TILE);
        // A block has as many lines as it has groups of columns: a line is a group of the tile's every row.
        let lines = vec![Line([[0; QUAD]; TILE]); tiles * count * quads];
        let mut made = Blocks { k: weight.k(), tiles, count, quads, near, lines };
        for tile in 0..tiles {
            let stored = weight.tile(tile).as_chunks().0.as_chunks::<TILE>().0;
            for (block, from) in stored.chunks(quads.max(1)).enumerate() {
                let part = block / near * near;
                let start = made.start(tile, part) + (block - part) * quads;
                for (q, rows) in from.iter().enumerate() {
                    for (r, &weights) in rows.iter().enumerate() {
                        let at = r * quads + q;
                        made.lines[start + at / TILE].0[at % TILE] = weights;
                    }
                }
            }
        }
        made
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Blocks of a tile of sixteen rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Groups of four columns of a block, at most sixteen.
    pub fn quads(&self) -> usize {
        self.quads
    }

    /// Blocks of a part; the last part of a depth may have fewer.
    pub fn near(&self) -> usize {
        self.near
    }

    /// The blocks of a part of a tile, on a cache line; they follow each other. A part is named by its first block.
    pub fn part(&self, tile: usize, block: usize) -> *const i8 {
        self.lines[self.start(tile, block)..].as_ptr().cast()
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// The first line of a part.
    fn start(&self, tile: usize, block: usize) -> usize {
        let group = if self.near < self.count { Self::GROUP } else { 1 };
        let first = tile / group * group;
        let (beside, len) = (group.min(self.tiles - first), self.near.min(self.count - block));
        (first * self.count + beside * block + (tile - first) * len) * self.quads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::tile_i8;

    #[test]
    fn every_weight_is_where_it_is_said_to_be() {
        for (m, k) in [(1, 1), (16, 64), (17, 65), (33, 147), (5, 300), (16, 24), (70, 577), (150, 1300)] {
            let rows: Vec<i8> = (0..m * k).map(|i| (i % 251) as i8).collect();
            let tiles = tile_i8(m, k, &rows);
            let blocks = Blocks::new(&TilesI8::new(m, k, &tiles).unwrap());
            let (count, near, depth) = (blocks.count(), blocks.near(), blocks.quads() * QUAD);
            assert!(depth <= 64 && count * depth >= k && count * depth < k + QUAD * (count + 1));
            assert!(near > 0 && (near == count && count <= AT_ONCE || near <= NEAR));
            let values = blocks.lines.iter().flat_map(|line| line.0.as_flattened()).copied();
            let values: Vec<i8> = values.collect();
            let mut seen = vec![false; values.len()];
            for tile in 0..m.div_ceil(TILE) {
                for block in 0..count {
                    let part = block / near * near;
                    let start = blocks.start(tile, part) * TILE * QUAD + (block - part) * TILE * depth;
                    for at in 0..TILE * depth {
                        let (r, c) = (tile * TILE + at / depth, block * depth + at % depth);
                        let want = if r < m && c < k { rows[r * k + c] } else { 0 };
                        assert_eq!(values[start + at], want, "{m} x {k}: {r}, {c}");
                        assert!(!std::mem::replace(&mut seen[start + at], true), "{m} x {k}: {r}, {c} twice");
                    }
                }
            }
            assert!(seen.iter().all(|&seen| seen) && values.len() == blocks.bytes());
        }
    }
}
