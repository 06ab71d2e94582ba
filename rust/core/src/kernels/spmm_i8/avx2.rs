//! AVX2: four non-zeros interleaved, eight columns an instruction; `vpmaddubsw` where it is exact, or else bytes widened to
//! 16 bits for `vpmaddwd`.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::quads::{in_order, quad_part};
use super::{ByPairs, Part, parts};
use crate::isa::Avx2;
use crate::kernels::strip_i8::avx2::store_sums;
use crate::kernels::strip_i8::{NR, StripI8, Sums, word};

pub(super) fn get() -> Option<ByPairs> {
    Avx2::detect().map(|_| run as ByPairs)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &StripI8<'_, super::PairedRows<'_>>) {
    let rows = s.with(s.weight.rows.clone());
    // SAFETY: the caller's; sums are stored where they were, and once the tile's are complete, as the strip's rows.
    unsafe {
        parts(&rows, |part, sums| {
            let fits = s.weight.fits(part.block, part.r0, part.counts.len());
            for column in (0..s.n).step_by(NR / 2) {
                half(part, column, fits, sums, |_, sums, at| at.cast::<[__m256i; 4]>().write(in_order(sums)));
            }
            if part.last {
                store_sums(s, part.r0, &sums.0[..part.counts.len()]);
            }
        });
    }
}

quad_part!(
    half, "avx2,fma,f16c", vector: __m256i,
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32,
    _mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16,
    weights: |w| {
        let w = _mm256_set1_epi32(w);
        (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w))
    },
    dot: |acc, x, (even, odd)| {
        let acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), even));
        _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), odd))
    },
    first(fits): |acc, x, w| {
        _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
    }
);
