//! Four lanes: Advanced SIMD.

#![allow(unsafe_code, reason = "intrinsics of a tier that the type proves")]

use super::{Op, Simd};
use crate::isa::Neon;
use std::arch::aarch64::*;

/// Four lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32x4(());

impl Simd for F32x4 {
    type F = float32x4_t;
    type I = int32x4_t;
    type M = uint32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    fn detect() -> Option<F32x4> {
        Neon::detect().map(|_| F32x4(()))
    }
    #[inline(always)]
    unsafe fn assume() -> F32x4 {
        F32x4(())
    }
    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon")]
        fn compiled<O: Op>(s: F32x4, op: O) -> O::Output {
            op.eval(s)
        }
        // SAFETY: `self` proves the tier.
        unsafe { compiled(self, op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: float32x4_t) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { vst1q_f32(p, x) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> float32x4_t {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe {
            let mut lanes = [0.0; 4];
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(4));
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, x: float32x4_t) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe {
            let mut lanes = [0.0; 4];
            vst1q_f32(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(4));
        }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    fn sqrt(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vsqrtq_f32(x) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn floor(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vrndmq_f32(x) }
    }
    #[inline(always)]
    fn ceil(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vrndpq_f32(x) }
    }
    #[inline(always)]
    fn trunc(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vrndq_f32(x) }
    }
    #[inline(always)]
    fn rint(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vrndnq_f32(x) }
    }
    #[inline(always)]
    fn eq(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vceqq_f32(a, b) }
    }
    #[inline(always)]
    fn lt(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vcltq_f32(a, b) }
    }
    #[inline(always)]
    fn le(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vcleq_f32(a, b) }
    }
    #[inline(always)]
    fn not(self, m: uint32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vmvnq_u32(m) }
    }
    #[inline(always)]
    fn and(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vandq_u32(a, b) }
    }
    #[inline(always)]
    fn or(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vorrq_u32(a, b) }
    }
    #[inline(always)]
    fn select(self, m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vbslq_f32(m, a, b) }
    }
    #[inline(always)]
    fn first(self, n: usize) -> uint32x4_t {
        const LANE: [u32; 8] = [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0, 0, 0, 0];
        // SAFETY: `self` proves the tier; four of eight elements, from the (4 - n)-th on.
        unsafe { vld1q_u32(LANE.as_ptr().add(4 - n.min(4))) }
    }
    #[inline(always)]
    fn swap(self, x: float32x4_t, distance: usize) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { if distance == 2 { vextq_f32::<2>(x, x) } else { vrev64q_f32(x) } }
    }
    #[inline(always)]
    fn lane0(self, x: float32x4_t) -> f32 {
        // SAFETY: `self` proves the tier.
        unsafe { vgetq_lane_f32::<0>(x) }
    }
    #[inline(always)]
    fn splat_int(self, x: i32) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    fn bits(self, x: float32x4_t) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vreinterpretq_s32_f32(x) }
    }
    #[inline(always)]
    fn as_float(self, x: int32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vreinterpretq_f32_s32(x) }
    }
    #[inline(always)]
    fn add_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    fn sub_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vsubq_s32(a, b) }
    }
    #[inline(always)]
    fn and_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    fn or_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    fn shl(self, x: int32x4_t, n: i32) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vshlq_s32(x, vdupq_n_s32(n)) }
    }
    #[inline(always)]
    fn sar(self, x: int32x4_t, n: i32) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vshlq_s32(x, vdupq_n_s32(-n)) }
    }
    #[inline(always)]
    fn to_int(self, x: float32x4_t) -> int32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vcvtnq_s32_f32(x) }
    }
    #[inline(always)]
    fn to_float(self, x: int32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vcvtq_f32_s32(x) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> int32x4_t {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe {
            let four = vreinterpret_u8_u32(vdup_n_u32(p.cast::<u32>().read_unaligned()));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four))))
        }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: int32x4_t) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe {
            let words = vmovn_u32(vreinterpretq_u32_s32(x));
            let bytes = vmovn_u16(vcombine_u16(words, words));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }
    #[inline(always)]
    fn max_nan(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min_nan(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the tier.
        unsafe { vminq_f32(a, b) }
    }
}
