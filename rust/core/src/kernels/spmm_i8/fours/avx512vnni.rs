//! AVX-512 VNNI: a four and sixteen columns an instruction.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::x86::{add_fours, run_wide};
use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::avx512::Bytes;
use crate::kernels::strip_i8::{LANES, NR, Output, StripI8, StripI8Kernel, Sums, store_rows, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<StripI8Kernel<Run>> {
    beside_dense(Tier::Avx512Vnni, run)
}

run_wide!("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", sums: [1, 2]);

add_fours!(
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m512i,
    _mm512_loadu_si512, _mm512_load_si512, _mm512_store_si512, _mm512_set1_epi32, _mm512_add_epi32,
    weights: |w| _mm512_set1_epi32(w), dot: _mm512_dpbusd_epi32
);
