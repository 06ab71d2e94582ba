//! AVX-VNNI: `vpdpbusd` in 256-bit registers, eight columns each, weights broadcast.
//!
//! Sixteen registers: a pass of six rows by two registers of columns keeps twelve sums, its panel and a weight.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::Tiles;
use crate::isa::AvxVnni;
use crate::kernels::strip_i8::avx2::{interleave, store_sums};
use crate::kernels::strip_i8::{Block, LANES, StripI8, Sums, dense, word};
use crate::weight::{QUAD, TilesI8};

/// Columns of a register.
const WIDTH: usize = 8;
/// Registers of [`LANES`] columns.
const V: usize = LANES / WIDTH;

pub(super) fn get() -> Option<Tiles> {
    AvxVnni::detect().map(|_| Tiles { run, pack: interleave, gathers: None })
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn run(s: &StripI8<'_, TilesI8<'_>>) {
    let vectors = s.vectors();
    // SAFETY: the caller's; a block has the rows and columns that its passes name.
    unsafe {
        dense(
            s,
            |block, sums| {
                for v in 0..vectors {
                    pass::<6>(&block, 0, v, sums);
                    pass::<5>(&block, 6, v, sums);
                    pass::<5>(&block, 11, v, sums);
                }
            },
            |r0, sums| store_sums(s, r0, sums),
        );
    }
}

/// Adds a block's rows `r0..r0 + R` over columns `LANES * v..LANES * (v + 1)`; nothing where no such row exists.
///
/// # Safety
/// The panel has the columns.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline(never)]
unsafe fn pass<const R: usize>(block: &Block<'_>, r0: usize, v: usize, sums: &mut Sums) {
    if r0 >= block.rows {
        return;
    }
    let rows: &mut [_; R] = sums.0[r0..].first_chunk_mut().expect("a pass stays within a tile");
    let mut acc = [[_mm256_setzero_si256(); V]; R];
    for (r, (acc, row)) in acc.iter_mut().zip(rows.iter()).enumerate() {
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = match block.start {
                Some(start) => _mm256_set1_epi32(start[r0 + r]),
                // SAFETY: a row of sums has the columns, aligned as `Sums` is.
                None => unsafe { _mm256_load_si256(row.as_ptr().add(v * LANES + i * WIDTH).cast()) },
            };
        }
    }
    // SAFETY: the panel has column `LANES * v`.
    let mut panel = unsafe { block.panel.add(v * LANES * QUAD) };
    for quad in block.weights {
        // SAFETY: the panel has V registers of columns for each of its quads.
        let x: [_; V] =
            std::array::from_fn(|i| unsafe { _mm256_loadu_si256(panel.add(i * WIDTH * QUAD).cast()) });
        let weights: &[_; R] = quad[r0..].first_chunk().expect("a pass stays within a tile");
        for (acc, &w) in acc.iter_mut().zip(weights) {
            let w = _mm256_set1_epi32(word(w));
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = _mm256_dpbusd_avx_epi32(*acc, x, w);
            }
        }
        panel = panel.wrapping_add(block.stride * QUAD);
    }
    for (acc, row) in acc.iter().zip(rows.iter_mut()) {
        for (i, &acc) in acc.iter().enumerate() {
            // SAFETY: as they were loaded.
            unsafe { _mm256_store_si256(row.as_mut_ptr().add(v * LANES + i * WIDTH).cast(), acc) };
        }
    }
}
