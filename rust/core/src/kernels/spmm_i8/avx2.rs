//! AVX2: four non-zeros interleaved, bytes widened to 16 bits for `vpmaddwd`, eight columns an instruction.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

#[allow(clippy::wildcard_imports, reason = "half the file is intrinsics")]
use std::arch::x86_64::*;

use super::quads::quad_row;
use super::{Kernel, Row, rows};
use crate::isa::Avx2;
use crate::kernels::strip_i8::{NR, StripI8, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    Avx2::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's.
    unsafe {
        rows(s, |row, sums| {
            half(row, 0, sums);
            if s.n > NR / 2 {
                half(row, NR / 2, sums);
            }
        });
    }
}

quad_row!(
    half, "avx2,fma,f16c", vector: __m256i, lanes: [0 1],
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32, _mm256_extracti128_si256,
    _mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16,
    weights: |w| {
        let w = _mm256_set1_epi32(word(w));
        (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w))
    },
    dot: |acc, x, (even, odd)| {
        let acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), even));
        _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), odd))
    }
);
