//! 256-bit blocks: 12 of the 16 registers hold sums, three a row of the panel, one a weight.
//!
//! Four rows by three vectors are 22 instructions for 12 multiply-adds, six by two 23; on a core that decodes for another
//! thread too, instructions seem to be what binds.

#![allow(unsafe_code, reason = "vector loads and stores through the strip's raw pointers")]

use super::{Ahead, Blocks, Run, Seam, finish, scale_and_bias, walk, weights};
use crate::isa::Avx2;
use crate::kernels::simd::{Simd, avx2::F32x8};
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::Tiles;
use std::arch::x86_64::*;
use std::array::from_fn;

const LANES: usize = 8;

static BLOCKS: Blocks = Blocks {
    lanes: LANES,
    wide: [
        [&[(8, wide::<8, 1, 0>), (8, wide::<8, 1, 0>)], &[(8, wide::<8, 1, 0>)]],
        [
            &[(6, wide::<6, 2, 0>), (5, wide::<5, 2, 0>), (5, wide::<5, 2, 0>)],
            &[(4, wide::<4, 2, 0>), (4, wide::<4, 2, 0>)],
        ],
        [
            &[(4, wide::<4, 3, 0>), (4, wide::<4, 3, 0>), (4, wide::<4, 3, 0>), (4, wide::<4, 3, 0>)],
            &[(4, wide::<4, 3, 0>), (4, wide::<4, 3, 0>)],
        ],
    ],
    seam: &[Seam {
        vectors: 2,
        columns: 1,
        cover: &[(6, wide::<6, 2, 1>), (5, wide::<5, 2, 1>), (5, wide::<5, 2, 1>)],
    }],
    tall: &[
        (1, 4, tall::<1, 4>),
        (1, 1, tall::<1, 1>),
        (2, 2, tall::<2, 2>),
        (2, 1, tall::<2, 1>),
        (4, 1, tall::<4, 1>),
    ],
};

/// Depth of a block. Four rows that pass over three vectors of columns read 12 KiB of the panel and 8 KiB of a tile of weights,
/// and ask for 2 KiB of the next tile: that fits a first-level cache of 32 KiB, and at twice the depth it does not.
const KB: usize = 128;

pub(super) fn get() -> Option<StripKernel<Run>> {
    Avx2::detect().map(|_| StripKernel { run: run as Run, nr: 96, kb: KB })
}

unsafe fn run(s: &Strip<'_, Tiles<'_, f32>>) {
    // SAFETY: the caller's; it holds the token, which `get` found.
    unsafe { walk(s, &BLOCKS) }
}

/// Asks for what a block is to read and write once its sums are done: rows of the residual, and rows of the output that no
/// block of the depth has written yet. Each is on a page of its own, and no processor foresees that.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn ask<const R: usize, const V: usize>(s: &Strip<'_, Tiles<'_, f32>>, r: usize, j: usize) {
    let rows = |from: *const f32| {
        for i in 0..R {
            let row = from.wrapping_add((r + i) * s.out_stride + j);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(V * LANES - 1).cast());
        }
    };
    if s.first {
        rows(s.out.cast_const());
    }
    if s.last && !s.residual.is_null() {
        rows(s.residual);
    }
}

/// `R` rows by `V` vectors of columns and, of the same rows, `C` columns more.
///
/// # Safety
/// As for [`walk`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn wide<const R: usize, const V: usize, const C: usize>(
    s: &Strip<'_, Tiles<'_, f32>>,
    r: usize,
    j: usize,
    mut ahead: Ahead,
) {
    ask::<R, V>(s, r, j);
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    // Eight rows of the tile, among which the block's are; single columns have them in the lanes.
    let mut tail = [_mm256_setzero_ps(); C];
    let eight = r - r % TILE + (r % TILE).min(TILE - LANES);
    let mut w = weights(s, r);
    let mut x = s.panel.wrapping_add(j);
    let mut step = || {
        _mm_prefetch::<_MM_HINT_T0>(ahead.at.cast());
        ahead.at = ahead.at.wrapping_add(ahead.step);
        // SAFETY: the panel has a row for every `k` of the block, readable to a whole number of vectors.
        let xs: [__m256; V] = from_fn(|v| unsafe { _mm256_loadu_ps(x.add(v * LANES)) });
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a tile has TILE weights for every `k`, R of them from `r` on.
            let w = _mm256_set1_ps(unsafe { *w.add(i) });
            for (sum, x) in sums.iter_mut().zip(xs) {
                *sum = _mm256_fmadd_ps(w, x, *sum);
            }
        }
        for (c, sum) in tail.iter_mut().enumerate() {
            // SAFETY: a tile has TILE weights for every `k`, eight of them from `eight` on; `C` columns past the last whole
            // vector are in the strip or what pads it.
            let (w, x) = unsafe { (_mm256_loadu_ps(w.wrapping_sub(r - eight)), *x.add(V * LANES + c)) };
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
        unsafe { finish(F32x8::assume(), s, r + i, j, sums) };
    }
    if C > 0 {
        let column = |c: usize| if c < C { tail[c] } else { _mm256_setzero_ps() };
        let quads = turn([column(0), column(1), column(2), column(3)]);
        for r in r..s.rows.1.min(r + R) {
            // SAFETY: the row is in the range, and four columns past the last whole vector are in what pads the strip.
            unsafe { finish_quad(s, r, j + V * LANES, quads[r - eight]) };
        }
    }
}

/// `T` tiles of rows by at most `C` columns, rows in the lanes.
///
/// # Safety
/// As for [`walk`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tall<const C: usize, const T: usize>(s: &Strip<'_, Tiles<'_, f32>>, r: usize, j: usize, _: Ahead) {
    let mut sums = [[[_mm256_setzero_ps(); C]; 2]; T];
    let tiles: [*const f32; T] = from_fn(|t| weights(s, r + t * TILE));
    let mut x = s.panel.wrapping_add(j);
    for k in 0..s.block.1 - s.block.0 {
        // SAFETY: the panel has a row for every `k` of the block, readable to the next multiple of eight columns; C
        // divides that, and `j` is one.
        let xs: [__m256; C] = from_fn(|c| _mm256_set1_ps(unsafe { *x.add(c) }));
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            for (half, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a tile has TILE weights for every `k`, two vectors.
                let w = unsafe { _mm256_loadu_ps(tile.add(k * TILE + half * LANES)) };
                for (sum, x) in sums.iter_mut().zip(xs) {
                    *sum = _mm256_fmadd_ps(w, x, *sum);
                }
            }
        }
        x = x.wrapping_add(s.panel_stride);
    }
    for (half, sums) in sums.into_iter().flatten().enumerate() {
        let column = |c: usize| if c < C { sums[c] } else { _mm256_setzero_ps() };
        let quads = turn([column(0), column(1), column(2), column(3)]);
        let r = r + half * LANES;
        for (r, quad) in (r..s.rows.1).zip(quads) {
            // SAFETY: the row is in the range, and four columns from `j` are within a whole vector.
            unsafe { finish_quad(s, r, j, quad) };
        }
    }
}

/// Four columns of eight rows as eight rows of four columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn turn([a, b, c, d]: [__m256; 4]) -> [__m128; LANES] {
    let pairs =
        |a, b| [_mm256_castps_pd(_mm256_unpacklo_ps(a, b)), _mm256_castps_pd(_mm256_unpackhi_ps(a, b))];
    let ([ab0, ab2], [cd0, cd2]) = (pairs(a, b), pairs(c, d));
    // Row `4 * h + i` is half `h` of element `i`.
    let rows = [
        _mm256_unpacklo_pd(ab0, cd0),
        _mm256_unpackhi_pd(ab0, cd0),
        _mm256_unpacklo_pd(ab2, cd2),
        _mm256_unpackhi_pd(ab2, cd2),
    ]
    .map(|rows| {
        let rows = _mm256_castpd_ps(rows);
        [_mm256_castps256_ps128(rows), _mm256_extractf128_ps::<1>(rows)]
    });
    from_fn(|r| rows[r % 4][r / 4])
}

/// Stores four columns of a row, with the arithmetic of [`wide`].
///
/// # Safety
/// As for [`walk`]; the row is in the range.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn finish_quad(s: &Strip<'_, Tiles<'_, f32>>, r: usize, j: usize, sum: __m128) {
    let at = r * s.out_stride + j;
    let mut y = sum;
    // SAFETY: the caller's: the row is readable and writable there, as is the residual, which has the output's shape.
    unsafe {
        if !s.first {
            y = _mm_add_ps(_mm_loadu_ps(s.out.add(at)), y);
        }
        if s.last {
            let (scale, bias) = scale_and_bias(s, r);
            y = _mm_fmadd_ps(y, _mm_set1_ps(scale), _mm_set1_ps(bias));
            if !s.residual.is_null() {
                y = _mm_add_ps(y, _mm_loadu_ps(s.residual.add(at)));
            }
            let [lo, hi] = s.epilogue.clamp.map(|bound| _mm_set1_ps(bound));
            y = _mm_min_ps(hi, _mm_max_ps(lo, y));
        }
        _mm_storeu_ps(s.out.add(at), y);
    }
}
