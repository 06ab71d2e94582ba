//! What AVX2 and AVX-512 without VNNI share: exact products of bytes by way of 16-bit lanes.
//!
//! `vpmaddubsw` would multiply bytes as they are but saturates; `vpmaddwd` adds two products of 16 bits exactly. A group of
//! four depths is therefore split into its even and its odd bytes, on the side of the weights once a block, on that of the
//! panel once a pass: `x & 0xff` and `x >> 8` in 16-bit lanes.

use crate::kernels::strip_i8::{BLOCK_QUADS, Block};
use crate::weight::TILE;

/// The weights of a block in 16 bits: for each group of four depths and row, the pair of even ones or of odd ones.
pub(super) struct Wide {
    pub(super) even: [[[i16; 2]; TILE]; BLOCK_QUADS],
    pub(super) odd: [[[i16; 2]; TILE]; BLOCK_QUADS],
}

impl Wide {
    /// Room for any block.
    pub(super) const ZERO: Wide =
        Wide { even: [[[0; 2]; TILE]; BLOCK_QUADS], odd: [[[0; 2]; TILE]; BLOCK_QUADS] };

    /// Widens the weights of a block.
    #[inline(always)]
    pub(super) fn fill(&mut self, block: &Block<'_>) {
        for ((quad, even), odd) in block.weights.iter().zip(&mut self.even).zip(&mut self.odd) {
            for ((&w, even), odd) in quad.iter().zip(even).zip(odd) {
                // In 16-bit lanes, which vectorizes: of a pair of bytes the low one is even.
                let pairs: [i16; 2] = bytemuck::cast(w);
                *even = pairs.map(|pair| pair << 8 >> 8);
                *odd = pairs.map(|pair| pair >> 8);
            }
        }
    }
}

/// Defines a tier: its vector, the rows of a pass, how a strip's vectors of columns are cut into passes.
macro_rules! widening_tier {
    (
        $features:literal, $token:ident, rows: $rows:literal, vector: $vector:ident,
        $load:ident, $store:ident, $splat:ident, $splat16:ident, $and:ident, $shift:ident::<8>, $madd:ident, $add:ident, $store_rows:path,
        passes($vectors:ident, $pass:ident): $passes:expr
    ) => {
        use super::Tiles;
        use super::widening::Wide;
        use crate::isa::$token;
        use crate::kernels::strip_i8::{Block, StripI8, Sums, dense, interleave};
        use crate::weight::{QUAD, TILE, TilesI8};

        /// Columns of a register.
        const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();

        pub(super) fn get() -> Option<Tiles> {
            $token::detect().map(|_| Tiles { run, pack, gathers: None })
        }

        #[target_feature(enable = $features)]
        unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
            // SAFETY: the caller's.
            unsafe { interleave(rows, n, panel, stride, 0) };
        }

        #[target_feature(enable = $features)]
        unsafe fn run(s: &StripI8<'_, TilesI8<'_>>) {
            let $vectors = s.vectors();
            let mut wide = Wide::ZERO;
            // SAFETY: the caller's; a block has the rows and columns that its passes name.
            unsafe {
                dense(
                    s,
                    |block, sums| {
                        wide.fill(&block);
                        for r0 in (0..block.rows).step_by($rows) {
                            macro_rules! $pass {
                                ($v:literal, $column:expr) => {
                                    pass::<$v>(&block, &wide, r0, $column, sums)
                                };
                            }
                            $passes
                        }
                    },
                    |r0, sums| $store_rows(s, r0, sums),
                );
            }
        }

        /// Adds a block's rows from `r0` over `V` registers of columns from `column`.
        ///
        /// # Safety
        /// The panel has the columns.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn pass<const V: usize>(
            block: &Block<'_>,
            wide: &Wide,
            r0: usize,
            column: usize,
            sums: &mut Sums,
        ) {
            const { assert!(TILE.is_multiple_of($rows)) };
            let rows: &mut [_; $rows] = sums.0[r0..].first_chunk_mut().expect("a pass stays within a tile");
            let mut acc = [[$splat(0); V]; $rows];
            for (r, (acc, row)) in acc.iter_mut().zip(rows.iter()).enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = match block.start {
                        Some(start) => $splat(start[r0 + r]),
                        // SAFETY: a row of sums has the columns, aligned as `Sums` is.
                        None => unsafe { $load(row.as_ptr().add(column + v * WIDTH).cast()) },
                    };
                }
            }
            let low = $splat16(0xff);
            // SAFETY: the panel has column `column`.
            let mut panel = unsafe { block.panel.add(column * QUAD) };
            for (even, odd) in wide.even.iter().zip(&wide.odd).take(block.weights.len()) {
                let x: [_; V] = std::array::from_fn(|v| {
                    // SAFETY: the panel has V registers of columns for each of its quads.
                    let x = unsafe { $load(panel.add(v * WIDTH * QUAD).cast()) };
                    [$and(x, low), $shift::<8>(x)]
                });
                for (r, acc) in acc.iter_mut().enumerate() {
                    let pair = |[a, b]: [i16; 2]| $splat(i32::from(a) & 0xffff | i32::from(b) << 16);
                    let w = [pair(even[r0 + r]), pair(odd[r0 + r])];
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = $add(*acc, $madd(x[0], w[0]));
                        *acc = $add(*acc, $madd(x[1], w[1]));
                    }
                }
                panel = panel.wrapping_add(block.stride * QUAD);
            }
            for (acc, row) in acc.iter().zip(rows.iter_mut()) {
                for (v, &acc) in acc.iter().enumerate() {
                    // SAFETY: as they were loaded.
                    unsafe { $store(row.as_mut_ptr().add(column + v * WIDTH).cast(), acc) };
                }
            }
        }
    };
}
pub(super) use widening_tier;
