//! AVX-512 VNNI: four non-zeros interleaved, sixteen columns an instruction.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::quads::{in_order, quad_part};
use super::{ByRows, Part, parts};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::avx512::{is_whole, store_bytes};
use crate::kernels::strip_i8::{NR, StripI8, Sums, store_rows, word};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<ByRows> {
    Avx512Vnni::detect().map(|_| run as ByRows)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's; sums are stored where they were, and once the tile's are complete, as the strip's rows.
    unsafe {
        let store = |part: &Part<'_, i8>, sums: &Sums| {
            if part.last {
                store_rows(s, part.r0, &sums.0[..part.counts.len()]);
            }
        };
        if is_whole(s) {
            parts(s, |part, sums| {
                whole(part, 0, sums, |r, sums, _| store_bytes::<false, _>(s, part.r0 + r, sums));
            });
        } else if s.n > NR / 2 {
            parts(s, |part, sums| {
                whole(part, 0, sums, |_, sums, at| {
                    for (i, sums) in sums.into_iter().enumerate() {
                        let lanes: [[i32; 4]; 4] = std::mem::transmute(sums);
                        for (l, lane) in lanes.into_iter().enumerate() {
                            at.add(16 * l + 4 * i).cast::<[i32; 4]>().write(lane);
                        }
                    }
                });
                store(part, sums);
            });
        } else {
            parts(s, |part, sums| {
                half(part, 0, sums, |_, sums, at| at.cast::<[__m256i; 4]>().write(in_order(sums)));
                store(part, sums);
            });
        }
    }
}

quad_part!(
    whole, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m512i,
    _mm512_loadu_si512, _mm512_load_si512, _mm512_store_si512, _mm512_set1_epi32,
    _mm512_unpacklo_epi8, _mm512_unpackhi_epi8, _mm512_unpacklo_epi16, _mm512_unpackhi_epi16,
    weights: |w| _mm512_set1_epi32(w), dot: _mm512_dpbusd_epi32
);

quad_part!(
    half, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi", vector: __m256i,
    _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32,
    _mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16,
    weights: |w| _mm256_set1_epi32(w), dot: _mm256_dpbusd_epi32
);
