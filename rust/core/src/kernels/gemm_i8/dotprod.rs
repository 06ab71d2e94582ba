//! ARM dot products: `sdot` by element, four columns a register, four rows' weights in one.
//!
//! `sdot` multiplies signed bytes, so the panel holds `x - 128` and `128 · Σ w` is added to a sum. A pass of four rows by
//! sixteen columns keeps sixteen sums, four registers of the panel and one of weights.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::Tiles;
use crate::isa::DotProd;
use crate::kernels::strip_i8::dotprod::sdot_lane;
use crate::kernels::strip_i8::{Block, FLIP, LANES, StripI8, Sums, dense, interleave, store_rows};
use crate::weight::{QUAD, TILE, TilesI8};

/// Rows of a pass.
const R: usize = 4;
/// Registers of columns of a pass, four columns each.
const V: usize = LANES / 4;

pub(super) fn get() -> Option<Tiles> {
    DotProd::detect().map(|_| Tiles { run, pack, gathers: None })
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe { interleave(rows, n, panel, stride, FLIP) };
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn run(s: &StripI8<'_, TilesI8<'_>>) {
    let columns = s.vectors() * LANES;
    // SAFETY: the caller's; a block has the rows and columns that its passes name.
    unsafe {
        dense(
            s,
            |block, sums| {
                let flipped = block.flipped();
                for r0 in (0..block.rows).step_by(R) {
                    for column in (0..columns).step_by(LANES) {
                        pass(&block, &flipped, r0, column, sums);
                    }
                }
            },
            |r0, sums| store_rows(s, r0, sums),
        );
    }
}

/// Adds rows `r0..r0 + R` of a block over `LANES` columns; `flipped` is added to every sum of a row.
///
/// # Safety
/// The panel has the columns.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn pass(block: &Block<'_>, flipped: &[i32; TILE], r0: usize, column: usize, sums: &mut Sums) {
    let mut acc = [[vdupq_n_s32(0); V]; R];
    for (r, acc) in acc.iter_mut().enumerate() {
        let row = sums.0[r0 + r][column..].as_ptr();
        let flipped = vdupq_n_s32(flipped[r0 + r]);
        for (v, acc) in acc.iter_mut().enumerate() {
            let so_far = match block.start {
                Some(start) => vdupq_n_s32(start[r0 + r]),
                // SAFETY: `LANES` columns lie from `column`.
                None => unsafe { vld1q_s32(row.add(4 * v)) },
            };
            *acc = vaddq_s32(so_far, flipped);
        }
    }
    // SAFETY: the panel has the column.
    let mut panel = unsafe { block.panel.add(column * QUAD) };
    for quad in block.weights {
        let weights: &[_; R] = quad[r0..].first_chunk().expect("a pass stays within a tile");
        // SAFETY: sixteen weights fill a register.
        let w = unsafe { vld1q_s8(weights.as_flattened().as_ptr()) };
        // SAFETY: the panel has the columns for each of its quads.
        let x: [_; V] = std::array::from_fn(|v| unsafe { vld1q_s8(panel.add(4 * v * QUAD).cast()) });
        for (v, x) in x.into_iter().enumerate() {
            acc[0][v] = sdot_lane::<0>(acc[0][v], x, w);
            acc[1][v] = sdot_lane::<1>(acc[1][v], x, w);
            acc[2][v] = sdot_lane::<2>(acc[2][v], x, w);
            acc[3][v] = sdot_lane::<3>(acc[3][v], x, w);
        }
        panel = panel.wrapping_add(block.stride * QUAD);
    }
    for (r, acc) in acc.iter().enumerate() {
        let row = sums.0[r0 + r][column..].as_mut_ptr();
        for (v, &acc) in acc.iter().enumerate() {
            // SAFETY: as they were loaded.
            unsafe { vst1q_s32(row.add(4 * v), acc) };
        }
    }
}
