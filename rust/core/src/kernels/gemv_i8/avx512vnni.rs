//! AVX-512 VNNI: a tile's sixteen rows are one register of weights; activations are broadcast four at a time.
//!
//! Several tiles are read side by side, so that enough sums are in flight to cover the latency of `vpdpbusd`.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, Quads, Tile, tiles};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::{TILE, TilesI8};

/// Bytes by which weights are fetched into the cache before they are used.
const AHEAD: usize = 2048;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) unsafe fn run(s: &RowsI8<'_, TilesI8<'_>>) {
    by_rows!(s,
        8 => |s, i| tiles::<2, 8>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        4 => |s, i| tiles::<4, 4>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        2 => |s, i| tiles::<4, 2>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        1 => |s, i| tiles::<4, 1>(s, i, |t, x| dot(t, x), |t, x| dot(t, x))
    );
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
fn dot<const T: usize, const N: usize>(tiles: [Tile<'_>; T], x: &Quads<N>) -> [[[i32; TILE]; N]; T] {
    let mut acc = [[_mm512_setzero_si512(); N]; T];
    for q in 0..tiles[0].len() {
        let x: [_; N] = std::array::from_fn(|j| _mm512_set1_epi32(x.at(j, q)));
        for (acc, tile) in acc.iter_mut().zip(tiles) {
            _mm_prefetch::<_MM_HINT_T0>(tile[q].as_ptr().wrapping_byte_add(AHEAD).cast());
            // SAFETY: a group of a tile fills a register.
            let w = unsafe { _mm512_loadu_si512(tile[q].as_ptr().cast()) };
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = _mm512_dpbusd_epi32(*acc, x, w);
            }
        }
    }
    // SAFETY: a register of 32-bit lanes is sixteen sums.
    acc.map(|acc| acc.map(|acc| unsafe { std::mem::transmute::<__m512i, [i32; TILE]>(acc) }))
}
