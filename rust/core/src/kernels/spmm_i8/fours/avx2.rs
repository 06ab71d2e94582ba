//! AVX2: bytes in 16 bits for `vpmaddwd`, eight columns a register.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::x86::{add_fours, run_narrow};
use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::avx2::store_sums;
use crate::kernels::strip_i8::{StripI8, StripI8Kernel, Sums, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<StripI8Kernel<Run>> {
    beside_dense(Tier::Avx2, run)
}

run_narrow!("avx2,fma,f16c");

add_fours!(
    "avx2,fma,f16c", vector: __m256i,
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32, _mm256_add_epi32,
    weights: |w| {
        let w = _mm256_set1_epi32(w);
        (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w))
    },
    dot: |acc, x, (even, odd)| {
        let acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), even));
        _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), odd))
    }
);
