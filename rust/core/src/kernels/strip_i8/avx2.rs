//! In AVX2: the arithmetic of a finished sum, what [`super::store_rows`] does, for bytes; and a panel of fours.
//!
//! As in AVX-512, `vcvtps2dq` rounds half to even, and four registers are packed at a time.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{LANES, NR, Output, StripI8, store_rows};
use crate::weight::QUAD;

/// Columns of a register.
const WIDTH: usize = 8;

/// [`Pack`](super::Pack) of bytes as they are. Of [`interleave`](super::interleave) the compiler makes shifts of each byte for
/// AVX2, and no vectors at all for sixteen columns that are left.
///
/// # Safety
/// The processor has AVX2; otherwise as [`Pack`](super::Pack).
#[target_feature(enable = "avx2")]
pub(in crate::kernels) unsafe fn interleave(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
    const PAIR: usize = 2 * LANES;
    let reach = n.next_multiple_of(LANES);
    for (group, quad) in rows.chunks(QUAD).enumerate() {
        let [a, b, c, d]: [*const u8; QUAD] = std::array::from_fn(|i| quad[i.min(quad.len() - 1)]);
        let to = panel.wrapping_add(group * stride * QUAD);
        let mut j = 0;
        // SAFETY: the caller's; rows and panel reach to the next multiple of LANES.
        unsafe {
            while j + PAIR <= reach {
                let row = |row: *const u8| _mm256_loadu_si256(row.add(j).cast());
                let (a, b, c, d) = (row(a), row(b), row(c), row(d));
                let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
                // Unpacking goes by lanes of 128 bits: each of these has four columns of the first sixteen and four of the
                // last.
                let (e, f) = (_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd));
                let (g, h) =
                    (_mm256_unpacklo_epi16(ab_high, cd_high), _mm256_unpackhi_epi16(ab_high, cd_high));
                let to = to.add(j * QUAD).cast::<__m256i>();
                _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(e, f));
                _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x20>(g, h));
                _mm256_storeu_si256(to.add(2), _mm256_permute2x128_si256::<0x31>(e, f));
                _mm256_storeu_si256(to.add(3), _mm256_permute2x128_si256::<0x31>(g, h));
                j += PAIR;
            }
            if j < reach {
                let row = |row: *const u8| _mm_loadu_si128(row.add(j).cast());
                let (a, b, c, d) = (row(a), row(b), row(c), row(d));
                let (ab, cd) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
                let (ab_high, cd_high) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
                let to = to.add(j * QUAD).cast::<__m128i>();
                _mm_storeu_si128(to, _mm_unpacklo_epi16(ab, cd));
                _mm_storeu_si128(to.add(1), _mm_unpackhi_epi16(ab, cd));
                _mm_storeu_si128(to.add(2), _mm_unpacklo_epi16(ab_high, cd_high));
                _mm_storeu_si128(to.add(3), _mm_unpackhi_epi16(ab_high, cd_high));
            }
        }
    }
}

/// [`store_rows`], in vectors of its own where the output is uint8.
///
/// # Safety
/// As [`store_rows`].
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::kernels) unsafe fn store_sums<W>(s: &StripI8<'_, W>, r0: usize, sums: &[[i32; NR]]) {
    if let Output::F32 { .. } = s.requant.output {
        // SAFETY: the caller's.
        return unsafe { store_rows(s, r0, sums) };
    }
    let reach = s.vectors() * LANES;
    for (i, row) in sums.iter().enumerate() {
        let r = r0 + i;
        // A row of the strip is a line of a page of its own, which no prefetcher of the processor follows: the next strip's
        // line is asked for here, wherever it is.
        _mm_prefetch::<_MM_HINT_T0>(s.out.wrapping_add(r * s.out_stride + NR).cast_const().cast());
        if s.requant.residual.is_some() {
            _mm_prefetch::<_MM_HINT_T0>(s.residual.wrapping_add(r * s.residual_stride + NR).cast());
        }
        let mut j = 0;
        // SAFETY: the caller's; a row of sums has all columns, a strip those of its vectors.
        unsafe {
            while j + 4 * WIDTH <= reach {
                store_bytes::<4, W>(s, r, j, row);
                j += 4 * WIDTH;
            }
            if j < reach {
                store_bytes::<2, W>(s, r, j, row);
            }
        }
    }
}

/// Stores the sums of row `r` and `N` registers of columns from `j`, `N` being 2 or 4.
///
/// # Safety
/// As [`store_rows`]; the output is uint8; the strip has the columns.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_bytes<const N: usize, W>(s: &StripI8<'_, W>, r: usize, j: usize, sums: &[i32; NR]) {
    let Output::U8 { zero_point, lo, hi } = s.requant.output else { unreachable!("the output is uint8") };
    let (scale, bias) = (_mm256_set1_ps(s.requant.scale[r]), _mm256_set1_ps(s.requant.bias[r]));
    let mut y = [_mm256_setzero_ps(); N];
    debug_assert!(j + N * WIDTH <= NR);
    for (v, y) in y.iter_mut().enumerate() {
        // SAFETY: a row of sums has all columns.
        let sums = unsafe { _mm256_loadu_si256(sums.as_ptr().add(j + v * WIDTH).cast()) };
        *y = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale), bias);
    }
    if let Some(residual) = s.requant.residual {
        let scale = _mm256_set1_ps(residual.scale);
        let zero_point = _mm256_set1_epi32(residual.zero_point.into());
        let from = s.residual.wrapping_add(r * s.residual_stride + j);
        for (v, y) in y.iter_mut().enumerate() {
            // SAFETY: the strip has the row and these columns.
            let q = unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(v * WIDTH).cast())) };
            let steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, zero_point));
            *y = _mm256_add_ps(*y, _mm256_mul_ps(steps, scale));
        }
    }
    // What is too small for an integer, and a NaN, which in this order of operands stays one, becomes the least integer;
    // narrowing with saturation then leaves the bound from below to the end.
    let upper = _mm256_set1_ps((i32::from(hi) - i32::from(zero_point)) as f32);
    let zero_point = _mm256_set1_epi16(zero_point.into());
    let mut halves = [_mm256_setzero_si256(); 2];
    for (i, half) in halves.iter_mut().enumerate() {
        // Of two registers the second half is not stored.
        let (a, b) = (y[2 * i % N], y[(2 * i + 1) % N]);
        let (a, b) = (_mm256_min_ps(upper, a), _mm256_min_ps(upper, b));
        let steps = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
        *half = _mm256_add_epi16(steps, zero_point);
    }
    let bytes =
        _mm256_max_epu8(_mm256_packus_epi16(halves[0], halves[1]), _mm256_set1_epi8(lo.cast_signed()));
    // Each 128-bit lane has four columns of every register.
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let out = s.out.wrapping_add(r * s.out_stride + j);
    // SAFETY: the strip has the row and these columns.
    unsafe {
        if N == 4 {
            _mm256_storeu_si256(out.cast(), bytes);
        } else {
            _mm_storeu_si128(out.cast(), _mm256_castsi256_si128(bytes));
        }
    }
}
