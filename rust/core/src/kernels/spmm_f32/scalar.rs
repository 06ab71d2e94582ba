//! Portable: a vector is an array, which compilers turn into whatever registers there are.
#![allow(unsafe_code, reason = "loads and stores through the strip's pointers")]

use std::mem::MaybeUninit;
use std::ops::Range;

use half::f16;

use super::stacked::stacked_kernels;
use super::{Run, Scratch, strip_kernels};
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::{BLOCK, SparseRows};

type Vector = [f32; 16];
const LANES: usize = 16;

strip_kernels! { token: Some(()), vectors: [1 2], sums: 1, kb: 256, }

stacked_kernels! {
    token: Some(()), pairs: [1], fours: [1], kb: 256,
}

#[inline]
fn zero() -> Vector {
    [0.0; LANES]
}

#[inline]
fn splat(value: f32) -> Vector {
    [value; LANES]
}

/// # Safety
/// `LANES` floats are readable at `from`.
#[inline]
unsafe fn load(from: *const f32) -> Vector {
    // SAFETY: the caller's promise.
    unsafe { from.cast::<Vector>().read_unaligned() }
}

/// # Safety
/// `LANES` floats are writable at `to`.
#[inline]
unsafe fn store(to: *mut f32, value: Vector) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<Vector>().write_unaligned(value) }
}

/// Two roundings: a fused one is a library call where the processor has no instruction for it.
#[inline]
fn fma(a: Vector, b: Vector, c: Vector) -> Vector {
    std::array::from_fn(|i| a[i] * b[i] + c[i])
}

#[inline]
fn mul(a: Vector, b: Vector) -> Vector {
    std::array::from_fn(|i| a[i] * b[i])
}

#[inline]
fn add(a: Vector, b: Vector) -> Vector {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Nothing portable asks for a cache line.
#[inline]
fn fetch(_: *const f32) {}

/// Comparisons with NaN are false, so a NaN stays one.
#[inline]
fn clamp(y: Vector, [low, high]: [f32; 2]) -> Vector {
    y.map(|y| if y < low { low } else { y }).map(|y| if y > high { high } else { y })
}

#[inline]
fn widen_f16(from: &[f16], to: &mut Scratch) {
    for (&from, to) in from.iter().zip(to) {
        to.write(widen(from));
    }
}

#[inline]
fn widen_i8(from: &[i8], to: &mut Scratch) {
    for (&from, to) in from.iter().zip(to) {
        to.write(f32::from(from));
    }
}

/// `f32::from`, without branches and without asking what the processor has.
#[inline]
pub(in crate::kernels) fn widen(half: f16) -> f32 {
    let bits = u32::from(half.to_bits());
    // The exponent's bias grows from 15 to 127; the product also normalises what has no exponent.
    let finite = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((254 - 15) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let (got, want) = (widen(half), half.to_f32());
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:#06x}: {got}");
        }
    }
}
