//! AVX-512 without VNNI: as AVX2, in registers of sixteen columns.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

super::by_magnitude::magnitudes_tier!(
    "avx512f,avx512bw,avx512vl,avx512dq", Avx512, vector: __m512i,
    _mm512_loadu_si512, _mm512_store_si512, _mm512_set1_epi32, _mm512_xor_si512, _mm512_maddubs_epi16,
    _mm512_madd_epi16, _mm512_add_epi16, _mm512_add_epi32,
    crate::kernels::strip_i8::avx512::store_sums, passes: [1, 2, 3, 4]
);
