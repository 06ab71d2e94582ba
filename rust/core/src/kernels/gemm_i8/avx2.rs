//! AVX2: eight columns a register, up to eight of them a pass, weights broadcast.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

super::by_magnitude::magnitudes_tier!(
    "avx2,fma,f16c", Avx2, vector: __m256i,
    _mm256_loadu_si256, _mm256_store_si256, _mm256_set1_epi32, _mm256_xor_si256, _mm256_maddubs_epi16,
    _mm256_madd_epi16, _mm256_add_epi16, _mm256_add_epi32,
    crate::kernels::strip_i8::avx2::store_sums, passes: [1, 2, 3, 4, 5, 6, 7, 8]
);
