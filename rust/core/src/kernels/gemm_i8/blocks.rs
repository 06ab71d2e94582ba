//! The form of a dense weight that matrix units read.

use crate::weight::{QUAD, TILE, TilesI8};

/// Groups of four columns that a block has at most: what a row of a matrix unit's register holds.
const MAX_QUADS: usize = 16;

/// A cache line of weights.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([[i8; QUAD]; TILE]);

/// A dense weight in blocks of sixteen rows by a few groups of four columns, `[⌈m/16⌉][blocks][16][quads][4]`: a row's
/// columns lie side by side.
///
/// All blocks are equally deep, so that registers are laid out once for all of them; what pads the last is zero.
#[derive(Clone, Debug)]
pub struct Blocks {
    k: usize,
    count: usize,
    quads: usize,
    lines: Vec<Line>,
}

impl Blocks {
    /// Of the form that a file has.
    pub fn new(weight: &TilesI8<'_>) -> Blocks {
        let blocks = weight.quads().div_ceil(MAX_QUADS);
        let quads = weight.quads().div_ceil(blocks.max(1));
        let tiles = weight.m().div_ceil(TILE);
        // A block has as many lines as it has groups of columns: a line is a group of the tile's every row.
        let mut lines = vec![Line([[0; QUAD]; TILE]); tiles * blocks * quads];
        for (tile, lines) in lines.chunks_exact_mut((blocks * quads).max(1)).enumerate() {
            let stored = weight.tile(tile).as_chunks().0.as_chunks::<TILE>().0;
            for (from, to) in stored.chunks(quads.max(1)).zip(lines.chunks_exact_mut(quads.max(1))) {
                for (q, rows) in from.iter().enumerate() {
                    for (r, &weights) in rows.iter().enumerate() {
                        let at = r * quads + q;
                        to[at / TILE].0[at % TILE] = weights;
                    }
                }
            }
        }
        Blocks { k: weight.k(), count: blocks, quads, lines }
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Blocks of a tile of sixteen rows.
    pub fn blocks(&self) -> usize {
        self.count
    }

    /// Groups of four columns of a block, at most sixteen.
    pub fn quads(&self) -> usize {
        self.quads
    }

    /// The first block of a tile, on a cache line; blocks follow each other.
    pub fn tile(&self, tile: usize) -> *const i8 {
        self.lines[tile * self.count * self.quads..].as_ptr().cast()
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::tile_i8;

    #[test]
    fn every_weight_is_where_it_is_said_to_be() {
        for (m, k) in [(1, 1), (16, 64), (17, 65), (33, 147), (5, 300), (16, 24)] {
            let rows: Vec<i8> = (0..m * k).map(|i| (i % 251) as i8).collect();
            let tiles = tile_i8(m, k, &rows);
            let blocks = Blocks::new(&TilesI8::new(m, k, &tiles).unwrap());
            let (count, depth) = (blocks.blocks(), blocks.quads() * QUAD);
            assert!(depth <= 64 && count * depth >= k && count * depth < k + QUAD * (count + 1));
            let values: &[[[i8; QUAD]; TILE]] = &blocks.lines.iter().map(|line| line.0).collect::<Vec<_>>();
            let values = values.as_flattened().as_flattened();
            assert_eq!(values.len(), blocks.bytes());
            for (at, &value) in values.iter().enumerate() {
                let (tile, block, row, column) =
                    (at / (count * TILE * depth), at / (TILE * depth) % count, at / depth % TILE, at % depth);
                let (r, c) = (tile * TILE + row, block * depth + column);
                assert_eq!(value, if r < m && c < k { rows[r * k + c] } else { 0 }, "{m} x {k}: {r}, {c}");
            }
        }
    }
}
