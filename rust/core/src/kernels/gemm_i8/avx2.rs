//! AVX2: eight columns a register, weights broadcast.
//!
//! Sixteen registers: four rows by two registers of columns keep eight sums, the panel's two or four registers, ones and
//! weights.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use crate::kernels::strip_i8::LANES;

super::saturating::saturating_tier!(
    "avx2,fma,f16c", Avx2, vector: __m256i,
    _mm256_loadu_si256, _mm256_store_si256, _mm256_set1_epi32, _mm256_set1_epi16, _mm256_and_si256,
    _mm256_srli_epi16::<8>, _mm256_maddubs_epi16, _mm256_madd_epi16, _mm256_add_epi16, _mm256_add_epi32,
    crate::kernels::strip_i8::avx2::store_sums,
    passes(vectors, pass): for v in 0..vectors {
        pass!(2, v * LANES);
    }
);
