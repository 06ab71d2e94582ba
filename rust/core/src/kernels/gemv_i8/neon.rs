//! NEON: a tile's sixteen rows are four registers of weights; products in 16 bits, added two by two to sums in 32.
//!
//! `smull` multiplies signed bytes: activations become `x - 128`, and what that takes away, `128 · Σ w`, is summed like
//! the products of one more vector.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::{Kernel, Quads, Tile, tiles};
use crate::isa::Neon;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::{TILE, TilesI8};

/// Registers of half sums of a tile, of two rows each.
const HALVES: usize = TILE / 2;

pub(super) fn get() -> Option<Kernel> {
    Neon::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "neon")]
unsafe fn run(s: &RowsI8<'_, TilesI8<'_>>) {
    by_rows!(s,
        2 => |s, i| tiles::<1, 2>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        1 => |s, i| tiles::<1, 1>(s, i, |t, x| dot(t, x), |t, x| dot(t, x))
    );
}

#[target_feature(enable = "neon")]
#[inline]
fn dot<const N: usize>([tile]: [Tile<'_>; 1], x: &Quads<N>) -> [[[i32; TILE]; N]; 1] {
    let mut acc = [[vdupq_n_s32(0); HALVES]; N];
    let mut flipped = [vdupq_n_s32(0); HALVES];
    let flip = vdupq_n_s8(i8::MIN);
    for (q, weights) in tile.iter().enumerate() {
        let x: [_; N] =
            std::array::from_fn(|j| veorq_s8(vreinterpretq_s8_s32(vdupq_n_s32(x.at(j, q))), flip));
        let add = |acc: &mut [int32x4_t; HALVES], v: usize, w: int8x16_t, x: int8x16_t| {
            acc[2 * v] = vpadalq_s16(acc[2 * v], vmull_s8(vget_low_s8(w), vget_low_s8(x)));
            acc[2 * v + 1] = vpadalq_s16(acc[2 * v + 1], vmull_high_s8(w, x));
        };
        for (v, w) in weights.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: four rows of a group fill a register.
            let w = unsafe { vld1q_s8(w.as_flattened().as_ptr()) };
            for (acc, x) in acc.iter_mut().zip(x) {
                add(acc, v, w, x);
            }
            add(&mut flipped, v, w, flip);
        }
    }
    [acc.map(|acc| {
        let mut sums = [0; TILE];
        for (v, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let of = |halves: &[int32x4_t; HALVES]| vpaddq_s32(halves[2 * v], halves[2 * v + 1]);
            // SAFETY: four sums fill a register.
            unsafe { vst1q_s32(sums.as_mut_ptr(), vsubq_s32(of(&acc), of(&flipped))) };
        }
        sums
    })]
}
