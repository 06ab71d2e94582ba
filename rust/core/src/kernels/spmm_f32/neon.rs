//! NEON: four columns a vector, eight vectors a strip.
#![allow(unsafe_code, reason = "loads and stores through the strip's pointers")]

use std::arch::aarch64::*;
use std::arch::asm;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::f16;

use super::stacked::stacked_kernels;
use super::{Run, Scratch, strip_kernels};
use crate::isa::Neon;
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::{BLOCK, SparseRows};

type Vector = float32x4_t;
const LANES: usize = 4;

strip_kernels! {
    token: Neon::detect(), vectors: [1 2 3 4 5 6 7 8], sums: 1, kb: 256,
    #[target_feature(enable = "neon")]
}

stacked_kernels! {
    token: Neon::detect(), pairs: [1 2 3 4 5 6 7 8], fours: [1 2 3 4], kb: 256,
    #[target_feature(enable = "neon")]
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Vector {
    vdupq_n_f32(0.0)
}

#[inline]
#[target_feature(enable = "neon")]
fn splat(value: f32) -> Vector {
    vdupq_n_f32(value)
}

/// # Safety
/// `LANES` floats are readable at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(from: *const f32) -> Vector {
    // SAFETY: the caller's promise.
    unsafe { vld1q_f32(from) }
}

/// # Safety
/// `LANES` floats are writable at `to`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(to: *mut f32, value: Vector) {
    // SAFETY: the caller's promise.
    unsafe { vst1q_f32(to, value) }
}

#[inline]
#[target_feature(enable = "neon")]
fn fma(a: Vector, b: Vector, c: Vector) -> Vector {
    vfmaq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn mul(a: Vector, b: Vector) -> Vector {
    vmulq_f32(a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: Vector, b: Vector) -> Vector {
    vaddq_f32(a, b)
}

/// Asks for a cache line; any address will do.
#[inline]
#[target_feature(enable = "neon")]
fn fetch(line: *const f32) {
    // SAFETY: a prefetch faults at no address and changes no state but the caches'.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly))
    };
}

/// `fmax` and `fmin` give NaN for a NaN.
#[inline]
#[target_feature(enable = "neon")]
fn clamp(y: Vector, [low, high]: [f32; 2]) -> Vector {
    vminq_f32(splat(high), vmaxq_f32(splat(low), y))
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(from: &[f16], to: &mut Scratch) {
    let (fours, rest) = from.as_chunks::<4>();
    let (to, _) = to.as_chunks_mut::<4>();
    for (from, to) in fours.iter().zip(&mut *to) {
        // SAFETY: both hold four.
        unsafe { vst1q_f32(to.as_mut_ptr().cast(), widen(vld1_u16(from.as_ptr().cast()))) };
    }
    for (i, &from) in rest.iter().enumerate() {
        to[fours.len()][i].write(f32::from(from));
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_i8(from: &[i8], to: &mut Scratch) {
    for (&from, to) in from.iter().zip(to) {
        to.write(f32::from(from));
    }
}

/// `fcvtl`, which every NEON has; its intrinsic is younger than this crate's oldest compiler.
#[inline]
#[target_feature(enable = "neon")]
fn widen(half: uint16x4_t) -> Vector {
    let single: Vector;
    // SAFETY: one instruction of the tier, from register to register.
    unsafe {
        asm!("fcvtl {s:v}.4s, {h:v}.4h", s = lateout(vreg) single, h = in(vreg) half,
            options(pure, nomem, nostack, preserves_flags));
    }
    single
}
