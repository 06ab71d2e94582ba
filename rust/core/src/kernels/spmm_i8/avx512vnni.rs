//! AVX-512 VNNI: four non-zeros interleaved, sixteen columns an instruction.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

#[allow(clippy::wildcard_imports, reason = "half the file is intrinsics")]
use std::arch::x86_64::*;

use super::quads::quad_row;
use super::{Kernel, Row, rows};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::{NR, StripI8, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's.
    unsafe {
        if s.n <= NR / 2 {
            rows(s, |row, sums| half(row, 0, sums));
        } else {
            rows(s, |row, sums| whole(row, 0, sums));
        }
    }
}

quad_row!(
    whole, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m512i, lanes: [0 1 2 3],
    _mm512_loadu_si512, _mm512_load_si512, _mm512_store_si512, _mm512_set1_epi32, _mm512_extracti32x4_epi32,
    _mm512_unpacklo_epi8, _mm512_unpackhi_epi8, _mm512_unpacklo_epi16, _mm512_unpackhi_epi16,
    weights: |w| _mm512_set1_epi32(word(w)), dot: _mm512_dpbusd_epi32
);

quad_row!(
    half, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m256i, lanes: [0 1],
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32, _mm256_extracti128_si256,
    _mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16,
    weights: |w| _mm256_set1_epi32(word(w)), dot: _mm256_dpbusd_epi32
);
