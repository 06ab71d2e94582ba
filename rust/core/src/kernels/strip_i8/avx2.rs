//! In AVX2: the arithmetic of a finished sum, what [`super::store_rows`] does, for bytes; and a panel of fours.
//!
//! As in AVX-512, `vcvtps2dq` rounds half to even, and four registers are packed at a time.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{LANES, NR, Output, Residual, StripI8, store_rows};
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
pub(in crate::kernels) unsafe fn store_sums<W>(s: &StripI8<'_, W>, r0: usize, sums: &[[i32; NR]]) {
    // SAFETY: the caller's.
    unsafe {
        match (s.requant.output, s.requant.residual) {
            (Output::F32 { .. }, _) => store_rows(s, r0, sums),
            (Output::U8 { zero_point, lo, hi }, None) => {
                store_bytes::<false, W>(s, r0, sums, Bytes::new(zero_point, lo, hi));
            }
            (Output::U8 { zero_point, lo, hi }, Some(_)) => {
                store_bytes::<true, W>(s, r0, sums, Bytes::new(zero_point, lo, hi));
            }
        }
    }
}

/// What rounds to bytes.
#[derive(Clone, Copy)]
struct Bytes {
    upper: __m256,
    zero_point: __m256i,
    lo: __m256i,
}

impl Bytes {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(zero_point: u8, lo: u8, hi: u8) -> Bytes {
        Bytes {
            upper: _mm256_set1_ps((i32::from(hi) - i32::from(zero_point)) as f32),
            zero_point: _mm256_set1_epi16(zero_point.into()),
            lo: _mm256_set1_epi8(lo.cast_signed()),
        }
    }

    /// Sixteen numbers in steps of the output, the zero point added, in 16 bits; each 128-bit lane has four of either register.
    ///
    /// What is too small for an integer, and a NaN, which in this order of operands stays one, becomes the least integer;
    /// narrowing with saturation then leaves the bound from below to the end.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn steps(self, a: __m256, b: __m256) -> __m256i {
        let (a, b) = (_mm256_min_ps(self.upper, a), _mm256_min_ps(self.upper, b));
        let steps = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
        _mm256_add_epi16(steps, self.zero_point)
    }

    /// Bytes of what [`Bytes::steps`] gave, in the order of columns.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn bytes(self, a: __m256i, b: __m256i) -> __m256i {
        let bytes = _mm256_max_epu8(_mm256_packus_epi16(a, b), self.lo);
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// Stores rows of sums from row `r0`, with a residual if `ADD`.
///
/// # Safety
/// As [`store_rows`]; the output is uint8, and there is a residual where one is to be added.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn store_bytes<const ADD: bool, W>(s: &StripI8<'_, W>, r0: usize, sums: &[[i32; NR]], to: Bytes) {
    let reach = s.vectors() * LANES;
    let residual = s.requant.residual.unwrap_or(Residual { scale: 0.0, zero_point: 0 });
    let (step, origin) = (_mm256_set1_ps(residual.scale), _mm256_set1_epi32(residual.zero_point.into()));
    let rows = r0..r0 + sums.len();
    let (scales, biases) = (&s.requant.scale[rows.clone()], &s.requant.bias[rows.clone()]);
    for (((r, row), &scale), &bias) in rows.zip(sums).zip(scales).zip(biases) {
        let out = s.out.wrapping_add(r * s.out_stride);
        let from = s.residual.wrapping_add(r * s.residual_stride);
        // A row of the strip is a line of a page of its own, which no prefetcher of the processor follows: the next strip's
        // line is asked for here, wherever it is.
        _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(NR).cast_const().cast());
        if ADD {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(NR).cast());
        }
        let (scale, bias) = (_mm256_set1_ps(scale), _mm256_set1_ps(bias));
        let real = |j: usize| {
            // SAFETY: a row of sums has all columns.
            let sums = unsafe { _mm256_loadu_si256(row.as_ptr().add(j).cast()) };
            let y = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale), bias);
            if !ADD {
                return y;
            }
            // SAFETY: the strip has the row and these columns.
            let q = unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(j).cast())) };
            let steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, origin));
            _mm256_add_ps(y, _mm256_mul_ps(steps, step))
        };
        let two = |j: usize| to.steps(real(j), real(j + WIDTH));
        let mut j = 0;
        // SAFETY: the strip has the row and these columns.
        unsafe {
            while j + 4 * WIDTH <= reach {
                _mm256_storeu_si256(out.add(j).cast(), to.bytes(two(j), two(j + 2 * WIDTH)));
                j += 4 * WIDTH;
            }
            if j < reach {
                let steps = two(j);
                _mm_storeu_si128(out.add(j).cast(), _mm256_castsi256_si128(to.bytes(steps, steps)));
            }
        }
    }
}
