//! 512-bit blocks: 24 of the 32 registers hold sums, three a row of the panel, one a weight.

#![allow(unsafe_code, reason = "vector loads and stores through the strip's raw pointers")]

use super::avx2::{self, finish_quad};
use super::{Ahead, Blocks, Run, Seam, finish, walk, weights};
use crate::isa::Avx512;
use crate::kernels::simd::{Simd, avx512::F32x16};
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::Tiles;
use std::arch::x86_64::*;
use std::array::from_fn;

const LANES: usize = 16;

static BLOCKS: Blocks = Blocks {
    lanes: LANES,
    wide: [
        [&[(16, wide::<16, 1, 0>)], &[(8, wide::<8, 1, 0>)]],
        [&[(8, wide::<8, 2, 0>), (8, wide::<8, 2, 0>)], &[(8, wide::<8, 2, 0>)]],
        [&[(8, wide::<8, 3, 0>), (8, wide::<8, 3, 0>)], &[(8, wide::<8, 3, 0>)]],
    ],
    seam: &[
        Seam { vectors: 3, columns: 1, cover: &[(8, wide::<8, 3, 1>), (8, wide::<8, 3, 1>)] },
        Seam { vectors: 3, columns: 2, cover: &[(8, wide::<8, 3, 2>), (8, wide::<8, 3, 2>)] },
    ],
    tall: &[
        (1, 8, tall::<1, 8>),
        (1, 1, tall::<1, 1>),
        (2, 4, tall::<2, 4>),
        (2, 1, tall::<2, 1>),
        (4, 4, tall::<4, 4>),
        (4, 1, tall::<4, 1>),
        (8, 2, tall::<8, 2>),
        (8, 1, tall::<8, 1>),
    ],
};

pub(super) fn get() -> Option<StripKernel<Run>> {
    Avx512::detect().map(|_| StripKernel { run: run as Run, nr: 240, kb: 256 })
}

unsafe fn run(s: &Strip<'_, Tiles<'_, f32>>) {
    // SAFETY: the caller's; it holds the token, which `get` found.
    unsafe { walk(s, &BLOCKS) }
}

/// `R` rows by `V` vectors of columns and, of eight rows, `C` columns more.
///
/// # Safety
/// As for [`walk`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn wide<const R: usize, const V: usize, const C: usize>(
    s: &Strip<'_, Tiles<'_, f32>>,
    r: usize,
    j: usize,
    mut ahead: Ahead,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let mut tail = [_mm256_setzero_ps(); C];
    let mut w = weights(s, r);
    let mut x = s.panel.wrapping_add(j);
    let mut step = || {
        _mm_prefetch::<_MM_HINT_T0>(ahead.at.cast());
        ahead.at = ahead.at.wrapping_add(ahead.step);
        // SAFETY: the panel has a row for every `k` of the block, readable to a whole number of vectors.
        let xs: [__m512; V] = from_fn(|v| unsafe { _mm512_loadu_ps(x.add(v * LANES)) });
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a tile has TILE weights for every `k`, R of them from `r` on.
            let w = _mm512_set1_ps(unsafe { *w.add(i) });
            for (sum, x) in sums.iter_mut().zip(xs) {
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
        for (c, sum) in tail.iter_mut().enumerate() {
            // SAFETY: as above; `C` columns past the last whole vector are in the strip or what pads it.
            let (w, x) = unsafe { (_mm256_loadu_ps(w), *x.add(V * LANES + c)) };
            *sum = _mm256_fmadd_ps(w, _mm256_set1_ps(x), *sum);
        }
        w = w.wrapping_add(TILE);
        x = x.wrapping_add(s.panel_stride);
    };
    let depth = s.block.1 - s.block.0;
    for _ in 0..depth / 4 {
        step();
        step();
        step();
        step();
    }
    for _ in 0..depth % 4 {
        step();
    }
    let rows = s.rows.1 - r;
    for (i, sums) in sums.into_iter().enumerate() {
        if i == rows {
            break;
        }
        // SAFETY: this function has the features; the row is in the range, and `V` vectors from `j` are in the strip.
        unsafe { finish(F32x16::assume(), s, r + i, j, sums) };
    }
    if C > 0 {
        let column = |i: usize| if i < C { tail[i] } else { _mm256_setzero_ps() };
        let quads = avx2::turn([column(0), column(1), column(2), column(3)]);
        for (r, quad) in (r..s.rows.1).zip(quads) {
            // SAFETY: the row is in the range, and four columns past the last whole vector are in what pads the strip.
            unsafe { finish_quad(s, r, j + V * LANES, quad) };
        }
    }
}

/// `T` tiles of rows by at most `C` columns, rows in the lanes.
///
/// # Safety
/// As for [`walk`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn tall<const C: usize, const T: usize>(s: &Strip<'_, Tiles<'_, f32>>, r: usize, j: usize, _: Ahead) {
    let mut sums = [[_mm512_setzero_ps(); C]; T];
    let tiles: [*const f32; T] = from_fn(|t| weights(s, r + t * TILE));
    let mut x = s.panel.wrapping_add(j);
    for k in 0..s.block.1 - s.block.0 {
        // SAFETY: the panel has a row for every `k` of the block, readable to the next multiple of sixteen columns; C
        // divides that, and so does `j`.
        let xs: [__m512; C] = from_fn(|c| _mm512_set1_ps(unsafe { *x.add(c) }));
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            // SAFETY: a tile has TILE weights for every `k`.
            let w = unsafe { _mm512_loadu_ps(tile.add(k * TILE)) };
            for (sum, x) in sums.iter_mut().zip(xs) {
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
        x = x.wrapping_add(s.panel_stride);
    }
    for (t, sums) in sums.into_iter().enumerate() {
        for c in (0..C).step_by(4) {
            let column = |i: usize| if c + i < C { sums[c + i] } else { _mm512_setzero_ps() };
            let quads = turn([column(0), column(1), column(2), column(3)]);
            for (i, r) in (r + t * TILE..s.rows.1.min(r + (t + 1) * TILE)).enumerate() {
                // SAFETY: the row is in the range, and quads of columns are within a whole vector.
                unsafe { finish_quad(s, r, j + c, quads[i]) };
            }
        }
    }
}

/// Four columns of sixteen rows as sixteen rows of four columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn turn(columns: [__m512; 4]) -> [__m128; TILE] {
    let [a, b, c, d] = columns.map(|column| _mm512_castps_pd(column));
    let pairs = |a, b| {
        let (a, b) = (_mm512_castpd_ps(a), _mm512_castpd_ps(b));
        [_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(a, b))]
    };
    let ([ab0, ab2], [cd0, cd2]) = (pairs(a, b), pairs(c, d));
    // Row `4 * q + i` is quarter `q` of element `i`.
    let rows = [
        _mm512_unpacklo_pd(ab0, cd0),
        _mm512_unpackhi_pd(ab0, cd0),
        _mm512_unpacklo_pd(ab2, cd2),
        _mm512_unpackhi_pd(ab2, cd2),
    ]
    .map(|rows| {
        let rows = _mm512_castpd_ps(rows);
        [
            _mm512_castps512_ps128(rows),
            _mm512_extractf32x4_ps::<1>(rows),
            _mm512_extractf32x4_ps::<2>(rows),
            _mm512_extractf32x4_ps::<3>(rows),
        ]
    });
    from_fn(|r| rows[r % 4][r / 4])
}
