//! One lane in portable Rust.

#![allow(unsafe_code, reason = "loads and stores")]

use super::{Op, Simd};

/// One lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32x1;

impl Simd for F32x1 {
    type F = f32;
    type I = i32;
    type M = bool;
    const LANES: usize = 1;

    #[inline(always)]
    fn detect() -> Option<F32x1> {
        Some(F32x1)
    }
    #[inline(always)]
    unsafe fn assume() -> F32x1 {
        F32x1
    }
    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        op.eval(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: f32) {
        // SAFETY: the caller's.
        unsafe { *p = x }
    }
    #[inline(always)]
    unsafe fn load_first(self, _: *const f32, _: usize) -> f32 {
        0.0
    }
    #[inline(always)]
    unsafe fn store_first(self, _: *mut f32, _: usize, _: f32) {}

    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    // Not `f32::mul_add`: without the instruction that is a library call.
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn neg_mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        c - a * b
    }
    #[inline(always)]
    fn sqrt(self, x: f32) -> f32 {
        x.sqrt()
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    fn floor(self, x: f32) -> f32 {
        x.floor()
    }
    #[inline(always)]
    fn ceil(self, x: f32) -> f32 {
        x.ceil()
    }
    #[inline(always)]
    fn trunc(self, x: f32) -> f32 {
        x.trunc()
    }
    #[inline(always)]
    fn rint(self, x: f32) -> f32 {
        // Adding and taking away 2²³ leaves no room for a fraction; from 2²³ on there is none. A library call without SSE4.1
        // otherwise.
        const SHIFT: f32 = 8_388_608.0;
        let magnitude = x.abs();
        let rounded = if magnitude < SHIFT { (magnitude + SHIFT) - SHIFT } else { magnitude };
        rounded.copysign(x)
    }

    #[inline(always)]
    fn eq(self, a: f32, b: f32) -> bool {
        a == b
    }
    #[inline(always)]
    fn lt(self, a: f32, b: f32) -> bool {
        a < b
    }
    #[inline(always)]
    fn le(self, a: f32, b: f32) -> bool {
        a <= b
    }
    #[inline(always)]
    fn not(self, m: bool) -> bool {
        !m
    }
    #[inline(always)]
    fn and(self, a: bool, b: bool) -> bool {
        a & b
    }
    #[inline(always)]
    fn or(self, a: bool, b: bool) -> bool {
        a | b
    }
    #[inline(always)]
    fn select(self, m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }

    #[inline(always)]
    fn first(self, _: usize) -> bool {
        false
    }
    #[inline(always)]
    fn swap(self, x: f32, _: usize) -> f32 {
        x
    }
    #[inline(always)]
    fn lane0(self, x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> i32 {
        x
    }
    #[inline(always)]
    fn bits(self, x: f32) -> i32 {
        x.to_bits() as i32
    }
    #[inline(always)]
    fn as_float(self, x: i32) -> f32 {
        f32::from_bits(x as u32)
    }
    #[inline(always)]
    fn add_int(self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn sub_int(self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    fn and_int(self, a: i32, b: i32) -> i32 {
        a & b
    }
    #[inline(always)]
    fn or_int(self, a: i32, b: i32) -> i32 {
        a | b
    }
    #[inline(always)]
    fn shl(self, x: i32, n: i32) -> i32 {
        x << n
    }
    #[inline(always)]
    fn sar(self, x: i32, n: i32) -> i32 {
        x >> n
    }
    #[inline(always)]
    fn to_int(self, x: f32) -> i32 {
        x as i32
    }
    #[inline(always)]
    fn to_float(self, x: i32) -> f32 {
        x as f32
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> i32 {
        // SAFETY: the caller's.
        i32::from(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: i32) {
        // SAFETY: the caller's.
        unsafe { *p = x as u8 }
    }
}
