//! `sdot`, whose intrinsic is not stable yet.

#![allow(unsafe_code, reason = "an instruction without a stable intrinsic")]

use std::arch::aarch64::*;
use std::arch::asm;

/// `c[i] + Σ_j x[4i + j] · w[4i + j]`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(in crate::kernels) fn sdot(mut c: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction of the feature this function is compiled with; registers only.
    unsafe {
        asm!("sdot {c:v}.4s, {x:v}.16b, {w:v}.16b", c = inout(vreg) c, x = in(vreg) x, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    c
}

/// `c[i] + Σ_j x[4i + j] · w[4 LANE + j]`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(in crate::kernels) fn sdot_lane<const LANE: i32>(
    mut c: int32x4_t,
    x: int8x16_t,
    w: int8x16_t,
) -> int32x4_t {
    // SAFETY: the instruction of the feature this function is compiled with; registers only.
    unsafe {
        asm!("sdot {c:v}.4s, {x:v}.16b, {w:v}.4b[{lane}]", c = inout(vreg) c, x = in(vreg) x, w = in(vreg) w,
            lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    c
}
