//! A sparse int8 weight times a strip of uint8 columns.
//!
//! `out[r][j] = requantize(Σ_k W[r][k] · x[k][j])` as [`strip_i8`](super::strip_i8) defines it, over the non-zeros of `W`,
//! [`SparseRows`], in place or as the tier orders them. The panel is plain, `[k][panel_stride]`, so that for a convolution of
//! kernel 1 it is the activation itself; each of its rows is readable over whole [`NR`]s of columns, whatever `n` is. Exact,
//! hence equal, on every tier.

#![allow(unsafe_code, reason = "reads a panel through its pointer")]

use super::Impl;
use super::strip_i8::{NR, StripI8, Sums};
use crate::isa::Tier;
use crate::weight::{SparseRows, TILE};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
pub mod cost;
pub mod fours;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "what tiers of x86 read"))]
mod quads;
mod scalar;

pub use quads::Quads;

/// Computes the rows of a strip.
///
/// # Safety
/// As [`StripI8Kernel`](super::strip_i8::StripI8Kernel), and the panel's rows are readable over whole [`NR`]s of columns.
pub type ByRows = unsafe fn(&StripI8<'_, SparseRows<'_, i8>>);

/// A kernel of a weight whose non-zeros are in fours.
#[derive(Clone, Copy, Debug)]
pub struct ByQuads {
    /// Computes the rows of a strip; as [`ByRows`], but of up to `nr` columns.
    pub run: unsafe fn(&StripI8<'_, &Quads>),
    /// Makes the fours.
    pub made: fn(&SparseRows<'_, i8>) -> Quads,
    /// Most columns of a strip: [`NR`] or a multiple of it.
    pub nr: usize,
}

/// A kernel of this family, by the form of the weight it reads.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// The file's form.
    Rows(ByRows),
    /// Fours.
    Quads(ByQuads),
}

impl Kernel {
    /// Most columns of a strip.
    pub fn nr(self) -> usize {
        match self {
            Kernel::Rows(_) => NR,
            Kernel::Quads(kernel) => kernel.nr,
        }
    }
}

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: || neon::get().map(Kernel::Rows) },
    Impl { tier: Tier::Scalar, get: || Some(Kernel::Rows(scalar::get())) },
];

/// The units (single values or [`fours`]) of one tile of rows in one block of columns, over that block's part of the panel.
struct Part<'a, U> {
    /// First row of the tile.
    r0: usize,
    /// Row 0 of the block's panel.
    panel: *const u8,
    /// Bytes from what one index names of the panel to the next.
    stride: usize,
    /// Units of each row.
    counts: &'a [u8],
    /// Rows of the panel, or fours of them, as many as `counts` add up to.
    indices: &'a [u8],
    /// Parallel to `indices`.
    values: &'a [U],
    /// What the sums of each row start from, where this is the first block: they are then overwritten.
    start: Option<&'a [i32]>,
    /// Whether this is the last block: the finished sums are then to be stored.
    last: bool,
}

/// Tiles of rows that pass over a block of the panel before the next block's turn: enough that the panel comes from the
/// second-level cache seldom, few enough that their sums, 4 KiB a tile, stay in the first.
const TILES: usize = 4;

/// The loop nest of a weight as the file has it: hands `add` one tile and block at a time, with the tile's sums so far, in
/// whatever order of columns the tier left them. `add` stores what comes of the last block.
///
/// To be inlined into a function compiled for the tier, of which `add` is a closure.
///
/// # Safety
/// As [`ByRows`].
#[inline(always)]
unsafe fn parts<U>(s: &StripI8<'_, SparseRows<'_, U>>, add: impl Fn(&Part<'_, U>, &mut Sums)) {
    let (blocks, stride) = (s.weight.blocks(), s.panel_stride * size_of::<U>());
    let mut sums = [const { Sums([[0; NR]; TILE]) }; TILES];
    for group in s.rows().step_by(TILES * TILE) {
        let tiles = (group..s.rows.1.min(group + TILES * TILE)).step_by(TILE);
        // A weight without columns has one block of nothing.
        for b in 0..blocks.max(1) {
            for (r0, sums) in tiles.clone().zip(&mut sums) {
                let rows = r0..s.rows.1.min(r0 + TILE);
                let (counts, indices, values) = if b < blocks {
                    let block = s.weight.at(b);
                    let units = block.starts[r0 / TILE] as usize..block.starts[r0 / TILE + 1] as usize;
                    (&block.counts[rows.clone()], &block.indices[units.clone()], &block.values[units])
                } else {
                    (&[0; TILE][..rows.len()], &[][..], &[][..])
                };
                let part = Part {
                    r0,
                    // SAFETY: the panel has the rows of every block.
                    panel: unsafe { s.panel.add(b * s.weight.block() * stride) },
                    stride,
                    counts,
                    indices,
                    values,
                    start: (b == 0).then(|| &s.requant.offset[rows]),
                    last: b + 1 >= blocks,
                };
                add(&part, sums);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::Case;
    use crate::testing::{Aligned, for_each_impl};

    fn check(tier: Tier, kernel: Kernel, case: &Case, block: usize, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let weight = case.sparse(block);
        // An odd stride puts rows at every alignment.
        let stride = n.next_multiple_of(NR) + 1;
        let mut panel = Aligned::<u8>::new(k * stride, 3);
        for (to, from) in panel.chunks_mut(stride).zip(case.x.chunks(n)) {
            to[..n].copy_from_slice(from);
        }
        let got = match kernel {
            // SAFETY: the tier was detected; the panel has whole NRs of columns, `strip` gives room for what a strip may touch.
            Kernel::Rows(run) => case.strip(weight.rows(), rows, (&panel, stride), |s| unsafe { run(s) }),
            Kernel::Quads(kernel) => {
                let quads = (kernel.made)(&weight.rows());
                // SAFETY: as above.
                case.strip(&quads, rows, (&panel, stride), |s| unsafe { (kernel.run)(s) })
            }
        };
        assert_eq!(got, case.expected(rows), "{tier}: {m} x {k} x {n} in blocks of {block}, rows {rows:?}");
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for (m, zeros) in [(1, 0.9), (15, 0.5), (16, 0.95), (17, 0.9), (33, 0.7), (65, 0.9), (5, 1.0)] {
                for k in [1, 3, 4, 5, 63, 65, 255, 300, 600] {
                    let edges = [1, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 80, 96, 113, 127, 128];
                    for n in edges.into_iter().filter(|&n| n <= kernel.nr()) {
                        let block = [256, 128, 7][kind as usize % 3];
                        check(tier, kernel, &Case::new((m, k, n), kind, zeros), block, (0, m));
                        kind += 1;
                    }
                }
            }
        });
    }

    #[test]
    fn equals_the_oracle_in_every_kind_of_output() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::KINDS {
                for n in [21, NR, kernel.nr() - 7] {
                    check(tier, kernel, &Case::new((18, 37, n), kind, 0.5), 256, (0, 18));
                    check(tier, kernel, &Case::new((17, 530, n), kind, 0.5), 128, (0, 17));
                }
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((64, 40, kernel.nr()), kind, 0.5), 256, (0, 64));
                check(tier, kernel, &Case::ties((64, 40, 20), kind, 0.5), 256, (0, 64));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 16), (16, 32), (16, 112), (32, 130), (128, 130), (16, 16)] {
                for n in [50, kernel.nr()] {
                    check(tier, kernel, &Case::new((130, 300, n), 4, 0.8), 256, rows);
                }
            }
        });
    }

    #[test]
    fn a_sum_of_nothing_is_the_bias() {
        for_each_impl(TABLE, |tier, kernel| {
            check(tier, kernel, &Case::new((17, 0, 20), 0, 0.0), 256, (0, 17));
        });
    }
}
