//! NEON: products in 16 bits, added two by two to sums in 32.
//!
//! `smull` and `smlal` multiply signed bytes, so the panel holds `x - 128` and `128 · Σ w` is added to a sum. Two products
//! fit 16 bits unless both are 128²: where a block has a weight of -128 each is added to the sums by itself, elsewhere one
//! of a group of four depths and one of the next are added before `sadalp` adds lanes two by two. A pass of four rows by eight columns keeps sixteen registers of half sums.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::Tiles;
use crate::isa::Neon;
use crate::kernels::strip_i8::{Block, FLIP, LANES, StripI8, Sums, dense, interleave, store_rows, word};
use crate::weight::{QUAD, TILE, TilesI8};

/// Rows of a pass.
const R: usize = 4;
/// Columns of a pass.
const COLUMNS: usize = 8;

pub(super) fn get() -> Option<Tiles> {
    Neon::detect().map(|_| Tiles { run, pack, gathers: None })
}

#[target_feature(enable = "neon")]
unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe { interleave(rows, n, panel, stride, FLIP) };
}

#[target_feature(enable = "neon")]
unsafe fn run(s: &StripI8<'_, TilesI8<'_>>) {
    let columns = s.vectors() * LANES;
    // SAFETY: the caller's; a block has the rows and columns that its passes name.
    unsafe {
        dense(
            s,
            |block, sums| {
                let flipped = block.flipped();
                let least = block.weights.as_flattened().as_flattened().contains(&i8::MIN);
                let pass = if least { pass::<false> } else { pass::<true> };
                for r0 in (0..block.rows).step_by(R) {
                    for column in (0..columns).step_by(COLUMNS) {
                        pass(&block, &flipped, r0, column, sums);
                    }
                }
            },
            |r0, sums| store_rows(s, r0, sums),
        );
    }
}

/// Adds rows `r0..r0 + R` of a block over `COLUMNS` columns; `flipped` is added to every sum of a row. With `PAIRS` no
/// weight is -128.
///
/// # Safety
/// The panel has the columns.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn pass<const PAIRS: bool>(
    block: &Block<'_>,
    flipped: &[i32; TILE],
    r0: usize,
    column: usize,
    sums: &mut Sums,
) {
    let mut acc = [[vdupq_n_s32(0); 4]; R];
    // SAFETY: the panel has the column.
    let panel = unsafe { block.panel.add(column * QUAD) };
    let x = |q: usize| -> [int8x16_t; 2] {
        // SAFETY: the panel has the columns for each of its quads.
        std::array::from_fn(|i| unsafe { vld1q_s8(panel.add((q * block.stride + 4 * i) * QUAD).cast()) })
    };
    let w = |q: usize, r: usize| vreinterpretq_s8_s32(vdupq_n_s32(word(block.weights[q][r0 + r])));
    let quads = block.weights.len();
    for q in (0..quads & !1).step_by(2) {
        let (x0, x1) = (x(q), x(q + 1));
        for (r, acc) in acc.iter_mut().enumerate() {
            let (w0, w1) = (w(q, r), w(q + 1, r));
            for i in 0..2 {
                let low = vmull_s8(vget_low_s8(x0[i]), vget_low_s8(w0));
                let high = vmull_high_s8(x0[i], w0);
                let (low, high) = if PAIRS {
                    (vmlal_s8(low, vget_low_s8(x1[i]), vget_low_s8(w1)), vmlal_high_s8(high, x1[i], w1))
                } else {
                    acc[2 * i] = vpadalq_s16(acc[2 * i], low);
                    acc[2 * i + 1] = vpadalq_s16(acc[2 * i + 1], high);
                    (vmull_s8(vget_low_s8(x1[i]), vget_low_s8(w1)), vmull_high_s8(x1[i], w1))
                };
                acc[2 * i] = vpadalq_s16(acc[2 * i], low);
                acc[2 * i + 1] = vpadalq_s16(acc[2 * i + 1], high);
            }
        }
    }
    if quads % 2 == 1 {
        let q = quads - 1;
        let x = x(q);
        for (r, acc) in acc.iter_mut().enumerate() {
            let w = w(q, r);
            for i in 0..2 {
                acc[2 * i] = vpadalq_s16(acc[2 * i], vmull_s8(vget_low_s8(x[i]), vget_low_s8(w)));
                acc[2 * i + 1] = vpadalq_s16(acc[2 * i + 1], vmull_high_s8(x[i], w));
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        for i in 0..2 {
            let to = sums.0[r0 + r][column + 4 * i..].as_mut_ptr();
            // SAFETY: `COLUMNS` columns lie from `column`.
            unsafe {
                let so_far = match block.start {
                    Some(start) => vdupq_n_s32(start[r0 + r]),
                    None => vld1q_s32(to),
                };
                let sum = vaddq_s32(vpaddq_s32(acc[2 * i], acc[2 * i + 1]), vdupq_n_s32(flipped[r0 + r]));
                vst1q_s32(to, vaddq_s32(so_far, sum));
            }
        }
    }
}
