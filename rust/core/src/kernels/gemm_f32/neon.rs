//! 128-bit blocks: 24 of the 32 registers hold sums, three a row of the panel, two the weights of eight rows, which
//! `fmla` takes by lane.

#![allow(unsafe_code, reason = "vector loads and stores through the strip's raw pointers")]

use super::{Ahead, Blocks, Run, finish, walk, weights};
use crate::isa::Neon;
use crate::kernels::simd::{Simd, neon::F32x4};
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::Tiles;
use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;

const LANES: usize = 4;
const ROWS: usize = 8;

static BLOCKS: Blocks = Blocks {
    lanes: LANES,
    wide: [
        [&[(ROWS, wide::<1>), (ROWS, wide::<1>)], &[(ROWS, wide::<1>)]],
        [&[(ROWS, wide::<2>), (ROWS, wide::<2>)], &[(ROWS, wide::<2>)]],
        [&[(ROWS, wide::<3>), (ROWS, wide::<3>)], &[(ROWS, wide::<3>)]],
    ],
    // A vector has four lanes: one more leaves few idle.
    seam: &[],
    tall: &[],
};

pub(super) fn get() -> Option<StripKernel<Run>> {
    Neon::detect().map(|_| StripKernel { run: run as Run, nr: 144, kb: 256 })
}

unsafe fn run(s: &Strip<'_, Tiles<'_, f32>>) {
    // SAFETY: the caller's; it holds the token, which `get` found.
    unsafe { walk(s, &BLOCKS) }
}

/// [`ROWS`] rows by `V` vectors of columns.
///
/// # Safety
/// As for [`walk`].
#[target_feature(enable = "neon")]
unsafe fn wide<const V: usize>(s: &Strip<'_, Tiles<'_, f32>>, r: usize, j: usize, mut ahead: Ahead) {
    let mut sums = [[vdupq_n_f32(0.0); V]; ROWS];
    let mut w = weights(s, r);
    let mut x = s.panel.wrapping_add(j);
    for _ in s.block.0..s.block.1 {
        // SAFETY: a prefetch has no effect but on caches, wherever it points.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) ahead.at, options(nostack, preserves_flags, readonly))
        };
        ahead.at = ahead.at.wrapping_add(ahead.step);
        // SAFETY: the panel has a row for every `k` of the block, readable to a whole number of vectors.
        let xs: [float32x4_t; V] = from_fn(|v| unsafe { vld1q_f32(x.add(v * LANES)) });
        // SAFETY: a tile has TILE weights for every `k`, ROWS of them from `r` on.
        let (w0, w1) = unsafe { (vld1q_f32(w), vld1q_f32(w.add(LANES))) };
        for (v, x) in xs.into_iter().enumerate() {
            sums[0][v] = vfmaq_laneq_f32::<0>(sums[0][v], x, w0);
            sums[1][v] = vfmaq_laneq_f32::<1>(sums[1][v], x, w0);
            sums[2][v] = vfmaq_laneq_f32::<2>(sums[2][v], x, w0);
            sums[3][v] = vfmaq_laneq_f32::<3>(sums[3][v], x, w0);
            sums[4][v] = vfmaq_laneq_f32::<0>(sums[4][v], x, w1);
            sums[5][v] = vfmaq_laneq_f32::<1>(sums[5][v], x, w1);
            sums[6][v] = vfmaq_laneq_f32::<2>(sums[6][v], x, w1);
            sums[7][v] = vfmaq_laneq_f32::<3>(sums[7][v], x, w1);
        }
        w = w.wrapping_add(TILE);
        x = x.wrapping_add(s.panel_stride);
    }
    let rows = s.rows.1 - r;
    for (i, sums) in sums.into_iter().enumerate() {
        if i == rows {
            break;
        }
        // SAFETY: this function has the features; the row is in the range, and `V` vectors from `j` are in the strip.
        unsafe { finish(F32x4::assume(), s, r + i, j, sums) };
    }
}
