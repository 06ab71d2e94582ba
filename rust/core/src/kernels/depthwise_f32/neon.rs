//! NEON: 4 lanes; foreign lanes of the input are cleared before they are added.

#![allow(unsafe_code, reason = "NEON intrinsics behind the Neon token")]

use super::{Channels, Kernel, scalar, walk};
use crate::isa::Neon;
use std::arch::aarch64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: a `Neon` exists only where the processor has the features `run` is compiled with.
    Neon::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "neon")]
fn run(channels: &Channels<'_>, out: &mut [f32]) {
    // SAFETY: this function has the features of `F32x4`.
    if !unsafe { walk::run::<F32x4>(channels, out) } {
        scalar::run(channels, out);
    }
}

struct F32x4;

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl walk::Lanes for F32x4 {
    const N: usize = 4;
    const BROADCASTS: bool = true;
    type V = float32x4_t;
    type M = uint32x4_t;

    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(value) }
    }
    #[inline(always)]
    unsafe fn mask(bits: u32) -> uint32x4_t {
        // SAFETY: as above; the array is a vector long.
        unsafe { vtstq_u32(vdupq_n_u32(bits), vld1q_u32([1, 2, 4, 8].as_ptr())) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn split(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
        // SAFETY: as above.
        unsafe { [vuzp1q_f32(a, b), vuzp2q_f32(a, b)] }
    }
    #[inline(always)]
    unsafe fn sort(evens: float32x4_t) -> float32x4_t {
        evens
    }
    #[inline(always)]
    unsafe fn mask_evens(bits: u32) -> uint32x4_t {
        // SAFETY: as above.
        unsafe { Self::mask(walk::every_other(bits)) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, bits: u32) -> float32x4_t {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if bits >> i & 1 == 1 {
                // SAFETY: as above, of this lane.
                *lane = unsafe { *from.wrapping_add(i) };
            }
        }
        // SAFETY: as above; the array is a vector long.
        unsafe { vld1q_f32(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(sum: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn some(value: float32x4_t, lanes: uint32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(value), lanes)) }
    }
    #[inline(always)]
    unsafe fn fma_some(sum: float32x4_t, a: float32x4_t, b: float32x4_t, _: uint32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn clamp(value: float32x4_t, lo: float32x4_t, hi: float32x4_t) -> float32x4_t {
        // SAFETY: as above. Both are NaN where an operand is.
        unsafe { vminq_f32(vmaxq_f32(value, lo), hi) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: float32x4_t) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to, value) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, value: float32x4_t, bits: u32) {
        let mut lanes = [0.0; 4];
        // SAFETY: as above; the array is a vector long, and `to` is written only where a bit is set.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), value);
            for (i, lane) in lanes.into_iter().enumerate() {
                if bits >> i & 1 == 1 {
                    *to.wrapping_add(i) = lane;
                }
            }
        }
    }
}
