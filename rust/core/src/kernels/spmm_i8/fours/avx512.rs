//! AVX-512 without VNNI: bytes in 16 bits for `vpmaddwd`, sixteen columns a register.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::x86::{add_fours, run_wide};
use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::avx512::Bytes;
use crate::kernels::strip_i8::{LANES, NR, Output, StripI8, StripI8Kernel, Sums, store_rows, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<StripI8Kernel<Run>> {
    beside_dense(Tier::Avx512, run)
}

run_wide!("avx512f,avx512bw,avx512vl,avx512dq", sums: [1, 1]);

add_fours!(
    "avx512f,avx512bw,avx512vl,avx512dq", vector: __m512i,
    _mm512_loadu_si512, _mm512_load_si512, _mm512_store_si512, _mm512_set1_epi32, _mm512_add_epi32,
    weights: |w| {
        let w = _mm512_set1_epi32(w);
        (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w)), _mm512_srai_epi16::<8>(w))
    },
    dot: |acc, x, (even, odd)| {
        let acc = _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0xff)), even));
        _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_srli_epi16::<8>(x), odd))
    }
);
