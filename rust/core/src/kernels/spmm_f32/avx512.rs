//! AVX-512: sixteen columns a vector, four vectors a strip.
#![allow(unsafe_code, reason = "loads and stores through the strip's pointers")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::f16;

use super::stacked::stacked_kernels;
use super::{Run, Scratch, strip_kernels};
use crate::isa::Avx512;
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::{BLOCK, SparseRows};

type Vector = __m512;
const LANES: usize = 16;

strip_kernels! {
    token: Avx512::detect(), vectors: [1 2 3 4], sums: 2, kb: 256,
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
}

stacked_kernels! {
    token: Avx512::detect(), pairs: [1 2 3 4], fours: [1 2 3 4], kb: 256,
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn zero() -> Vector {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn splat(value: f32) -> Vector {
    _mm512_set1_ps(value)
}

/// # Safety
/// `LANES` floats are readable at `from`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load(from: *const f32) -> Vector {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(from) }
}

/// # Safety
/// `LANES` floats are writable at `to`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store(to: *mut f32, value: Vector) {
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_ps(to, value) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn fma(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_fmadd_ps(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn mul(a: Vector, b: Vector) -> Vector {
    _mm512_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm512_add_ps(a, b)
}

/// Asks for a cache line; any address will do.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn fetch(line: *const f32) {
    _mm_prefetch::<_MM_HINT_T0>(line.cast());
}

/// Of two operands of which one is NaN, `max` and `min` give the second, so a NaN stays one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn clamp(y: Vector, [low, high]: [f32; 2]) -> Vector {
    _mm512_min_ps(splat(high), _mm512_max_ps(splat(low), y))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn widen_f16(from: &[f16], to: &mut Scratch) {
    for (from, to) in from.chunks(16).zip(to.as_chunks_mut::<16>().0) {
        let mask = u16::MAX >> (16 - from.len());
        // SAFETY: the mask covers what the chunk holds; `to` holds sixteen.
        unsafe {
            let half = _mm256_maskz_loadu_epi16(mask, from.as_ptr().cast());
            _mm512_storeu_ps(to.as_mut_ptr().cast(), _mm512_cvtph_ps(half));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn widen_i8(from: &[i8], to: &mut Scratch) {
    for (from, to) in from.chunks(16).zip(to.as_chunks_mut::<16>().0) {
        let mask = u16::MAX >> (16 - from.len());
        // SAFETY: the mask covers what the chunk holds; `to` holds sixteen.
        unsafe {
            let bytes = _mm_maskz_loadu_epi8(mask, from.as_ptr());
            _mm512_storeu_ps(to.as_mut_ptr().cast(), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
        }
    }
}
