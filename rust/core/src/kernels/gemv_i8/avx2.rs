//! AVX2: a tile's sixteen rows are two registers of weights, whose bytes are widened to 16 bits for `vpmaddwd`.
//!
//! Even and odd depths are split, as in `gemm_i8`, so that two products of a row meet in its lane.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, Quads, Tile, tiles};
use crate::isa::Avx2;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::{TILE, TilesI8};

pub(super) fn get() -> Option<Kernel> {
    Avx2::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &RowsI8<'_, TilesI8<'_>>) {
    by_rows!(s,
        4 => |s, i| tiles::<1, 4>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        2 => |s, i| tiles::<1, 2>(s, i, |t, x| dot(t, x), |t, x| dot(t, x)),
        1 => |s, i| tiles::<2, 1>(s, i, |t, x| dot(t, x), |t, x| dot(t, x))
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot<const T: usize, const N: usize>(tiles: [Tile<'_>; T], x: &Quads<N>) -> [[[i32; TILE]; N]; T] {
    let mut acc = [[[_mm256_setzero_si256(); 2]; N]; T];
    let low = _mm256_set1_epi16(0xff);
    for q in 0..tiles[0].len() {
        for (acc, tile) in acc.iter_mut().zip(tiles) {
            let (halves, _) = tile[q].as_chunks::<{ TILE / 2 }>();
            for (half, w) in halves.iter().enumerate() {
                // SAFETY: half a group of a tile fills a register.
                let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
                let odd = _mm256_srai_epi16::<8>(w);
                for (j, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(x.at(j, q));
                    let acc = &mut acc[half];
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(even, _mm256_and_si256(x, low)));
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(odd, _mm256_srli_epi16::<8>(x)));
                }
            }
        }
    }
    acc.map(|acc| acc.map(bytemuck::cast))
}
