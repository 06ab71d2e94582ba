//! AVX-VNNI: a four and eight columns an instruction.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::x86::{add_fours, run_narrow};
use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::avx2::store_sums;
use crate::kernels::strip_i8::{StripI8, StripI8Kernel, Sums, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<StripI8Kernel<Run>> {
    beside_dense(Tier::AvxVnni, run)
}

run_narrow!("avx2,fma,f16c,avxvnni");

add_fours!(
    "avx2,fma,f16c,avxvnni", vector: __m256i,
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32, _mm256_add_epi32,
    weights: |w| _mm256_set1_epi32(w), dot: _mm256_dpbusd_avx_epi32
);
