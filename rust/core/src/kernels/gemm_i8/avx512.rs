//! AVX-512 without VNNI: as AVX2, in registers of sixteen columns, all of a strip in one pass.
//!
//! Four rows by four registers of columns keep sixteen sums, the panel's eight registers, ones and weights.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

super::saturating::saturating_tier!(
    "avx512f,avx512bw,avx512vl,avx512dq", Avx512, vector: __m512i,
    _mm512_loadu_si512, _mm512_store_si512, _mm512_set1_epi32, _mm512_set1_epi16, _mm512_and_si512,
    _mm512_srli_epi16::<8>, _mm512_maddubs_epi16, _mm512_madd_epi16, _mm512_add_epi16, _mm512_add_epi32,
    crate::kernels::strip_i8::avx512::store_sums,
    passes(vectors, pass): match vectors {
        1 => pass!(1, 0),
        2 => pass!(2, 0),
        3 => pass!(3, 0),
        _ => pass!(4, 0),
    }
);
