//! AVX2: eight columns a vector, eight vectors a strip.
#![allow(unsafe_code, reason = "loads and stores through the strip's pointers")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::f16;

use super::stacked::stacked_kernels;
use super::{Run, Scratch, strip_kernels};
use crate::isa::Avx2;
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::{BLOCK, SparseRows};

type Vector = __m256;
const LANES: usize = 8;

strip_kernels! {
    token: Avx2::detect(), vectors: [1 2 3 4 5 6 7 8], sums: 1, kb: 256,
    #[target_feature(enable = "avx2,fma,f16c")]
}

stacked_kernels! {
    token: Avx2::detect(), pairs: [1 2 3 4], fours: [1 2], kb: 256,
    #[target_feature(enable = "avx2,fma,f16c")]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn zero() -> Vector {
    _mm256_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn splat(value: f32) -> Vector {
    _mm256_set1_ps(value)
}

/// # Safety
/// `LANES` floats are readable at `from`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load(from: *const f32) -> Vector {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_ps(from) }
}

/// # Safety
/// `LANES` floats are writable at `to`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store(to: *mut f32, value: Vector) {
    // SAFETY: the caller's promise.
    unsafe { _mm256_storeu_ps(to, value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fma(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm256_fmadd_ps(a, b, c)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mul(a: Vector, b: Vector) -> Vector {
    _mm256_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_ps(a, b)
}

/// Asks for a cache line; any address will do.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch(line: *const f32) {
    _mm_prefetch::<_MM_HINT_T0>(line.cast());
}

/// Of two operands of which one is NaN, `max` and `min` give the second, so a NaN stays one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn clamp(y: Vector, [low, high]: [f32; 2]) -> Vector {
    _mm256_min_ps(splat(high), _mm256_max_ps(splat(low), y))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_f16(from: &[f16], to: &mut Scratch) {
    for (from, to) in from.chunks(8).zip(to.as_chunks_mut::<8>().0) {
        let mut whole = [f16::ZERO; 8];
        let from = if let Ok(from) = from.try_into() {
            from
        } else {
            whole[..from.len()].copy_from_slice(from);
            &whole
        };
        let from: *const [f16; 8] = from;
        // SAFETY: both hold eight.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr().cast(), _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_i8(from: &[i8], to: &mut Scratch) {
    for (&from, to) in from.iter().zip(to) {
        to.write(f32::from(from));
    }
}
