//! AVX-512 VNNI: four non-zeros interleaved, sixteen columns an instruction.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

#[allow(clippy::wildcard_imports, reason = "half the file is intrinsics")]
use std::arch::x86_64::*;

use super::quads::{in_order, quad_row};
use super::{Kernel, Row, rows};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::avx512::{is_whole, store_bytes};
use crate::kernels::strip_i8::{NR, StripI8, store_rows};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's.
    unsafe {
        if s.n <= NR / 2 {
            rows(s, |row, sums| {
                let finished = half(row, 0, sums);
                if row.last {
                    let sums = in_order(finished);
                    store_rows(s, row.r, &[bytemuck::cast([sums, sums])]);
                }
            });
        } else if is_whole(s) {
            rows(s, |row, sums| {
                let finished = whole(row, 0, sums);
                if row.last {
                    store_bytes::<false, _>(s, row.r, finished);
                }
            });
        } else {
            rows(s, |row, sums| {
                let finished = whole(row, 0, sums);
                if row.last {
                    // SAFETY: four registers of 32-bit lanes are sixteen lanes of four sums.
                    let lanes: [[[i32; 4]; 4]; 4] = std::mem::transmute(finished);
                    let sums: [[[i32; 4]; 4]; 4] = std::array::from_fn(|l| lanes.map(|register| register[l]));
                    store_rows(s, row.r, &[bytemuck::cast(sums)]);
                }
            });
        }
    }
}

quad_row!(
    whole, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m512i,
    _mm512_loadu_si512, _mm512_load_si512, _mm512_store_si512, _mm512_set1_epi32,
    _mm512_unpacklo_epi8, _mm512_unpackhi_epi8, _mm512_unpacklo_epi16, _mm512_unpackhi_epi16,
    weights: |w| _mm512_set1_epi32(w), dot: _mm512_dpbusd_epi32
);

quad_row!(
    half, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m256i,
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32,
    _mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16,
    weights: |w| _mm256_set1_epi32(w), dot: _mm256_dpbusd_epi32
);
