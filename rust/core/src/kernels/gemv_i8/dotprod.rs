//! ARM dot products: a tile's sixteen rows are four registers of weights; activations are broadcast four at a time.
//!
//! `sdot` multiplies signed bytes: activations become `x - 128`, and what that takes away, `128 · Σ w`, is summed like
//! the products of one more vector.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::{Kernel, Quads, Tile, tiles};
use crate::isa::DotProd;
use crate::kernels::strip_i8::dotprod::sdot;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::{TILE, TilesI8};

/// Registers of sums of a tile, of four rows each.
const V: usize = TILE / 4;

pub(super) fn get() -> Option<Kernel> {
    DotProd::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn run(s: &RowsI8<'_, TilesI8<'_>>) {
    by_rows!(s,
        4 => |s, i| tiles::<1, 4>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        2 => |s, i| tiles::<1, 2>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        1 => |s, i| tiles::<2, 1>(s, i, |t, x| dot(t, x), |t, x| dot(t, x))
    );
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot<const T: usize, const N: usize>(tiles: [Tile<'_>; T], x: &Quads<N>) -> [[[i32; TILE]; N]; T] {
    let mut acc = [[[vdupq_n_s32(0); V]; N]; T];
    let mut flipped = [[vdupq_n_s32(0); V]; T];
    let flip = vdupq_n_s8(i8::MIN);
    for q in 0..tiles[0].len() {
        let x: [_; N] =
            std::array::from_fn(|j| veorq_s8(vreinterpretq_s8_s32(vdupq_n_s32(x.at(j, q))), flip));
        for ((acc, flipped), tile) in acc.iter_mut().zip(&mut flipped).zip(tiles) {
            for (v, w) in tile[q].as_chunks::<4>().0.iter().enumerate() {
                // SAFETY: four rows of a group fill a register.
                let w = unsafe { vld1q_s8(w.as_flattened().as_ptr()) };
                for (acc, x) in acc.iter_mut().zip(x) {
                    acc[v] = sdot(acc[v], x, w);
                }
                flipped[v] = sdot(flipped[v], flip, w);
            }
        }
    }
    std::array::from_fn(|t| {
        acc[t].map(|acc| {
            let mut sums = [0; TILE];
            for (v, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                // SAFETY: four sums fill a register.
                unsafe { vst1q_s32(sums.as_mut_ptr(), vsubq_s32(acc[v], flipped[t][v])) };
            }
            sums
        })
    })
}
