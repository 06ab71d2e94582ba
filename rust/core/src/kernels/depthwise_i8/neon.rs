//! NEON: 16 outputs in four vectors of sums. Bytes are widened to 16 bits and `smlal` adds a tap at a time.

#![allow(unsafe_code, reason = "NEON intrinsics behind the Neon token")]

use super::lanes::{Lanes, gather};
use super::{Channels, Kernel, scalar, taps, walk};
use crate::isa::Neon;
use crate::kernels::strip_i8::Residual;
use std::arch::aarch64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: a `Neon` exists only where the processor has the features `run` is compiled with.
    Neon::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "neon")]
fn run(channels: &Channels<'_>, out: &mut [u8]) {
    // SAFETY: this function has the features of `Widened`.
    if !unsafe { walk::run::<Widened>(channels, out) || taps::run::<Widened>(channels, out) } {
        scalar::run(channels, out);
    }
}

struct Widened;

/// 16 bytes as 16-bit integers.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn widen(bytes: uint8x16_t) -> [int16x8_t; 2] {
    // SAFETY: the caller's.
    unsafe {
        [vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), vreinterpretq_s16_u16(vmovl_high_u8(bytes))]
    }
}

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl Lanes for Widened {
    const N: usize = 16;
    const TAPS: usize = 1;
    const READ: [usize; 2] = [16, 32];
    type X = [int16x8_t; 2];
    type W = int16x8_t;
    type M = [uint16x8_t; 2];
    type Sums = [int32x4_t; 4];
    type Reals = [float32x4_t; 4];
    type F = float32x4_t;
    type Z = uint8x16_t;

    #[inline(always)]
    fn pack(taps: [i8; 4]) -> i32 {
        i32::from(taps[0])
    }
    #[inline(always)]
    unsafe fn weights(packed: i32) -> int16x8_t {
        // SAFETY: as above.
        unsafe { vdupq_n_s16(packed as i16) }
    }
    #[inline(always)]
    unsafe fn mask<const S: usize>(lanes: [u32; 4]) -> [uint16x8_t; 2] {
        // SAFETY: as above; the array is a vector long.
        unsafe {
            let bit = vld1q_u16([1, 2, 4, 8, 16, 32, 64, 128].as_ptr());
            [lanes[0], lanes[0] >> 8].map(|lanes| vtstq_u16(vdupq_n_u16(lanes as u16), bit))
        }
    }
    #[inline(always)]
    unsafe fn constant(value: u8) -> [int16x8_t; 2] {
        // SAFETY: as above.
        unsafe { [vdupq_n_s16(i16::from(value)); 2] }
    }
    #[inline(always)]
    unsafe fn windows<const S: usize>(from: *const u8) -> [int16x8_t; 2] {
        // SAFETY: as above.
        unsafe { widen(if S == 1 { vld1q_u8(from) } else { vld2q_u8(from).0 }) }
    }
    #[inline(always)]
    unsafe fn windows_edge<const S: usize>(
        from: *const u8,
        mask: [uint16x8_t; 2],
        outside: [int16x8_t; 2],
    ) -> [int16x8_t; 2] {
        // SAFETY: as above.
        unsafe {
            let [a, b] = Self::windows::<S>(from);
            [vbslq_s16(mask[0], a, outside[0]), vbslq_s16(mask[1], b, outside[1])]
        }
    }
    #[inline(always)]
    unsafe fn windows_some<const S: usize>(
        from: *const u8,
        bytes: u64,
        mask: [uint16x8_t; 2],
        outside: [int16x8_t; 2],
    ) -> [int16x8_t; 2] {
        // SAFETY: as above; what is gathered is as long as what is read.
        unsafe {
            let row = gather(from, bytes, vgetq_lane_s16::<0>(outside[0]) as u8);
            Self::windows_edge::<S>(row.as_ptr(), mask, outside)
        }
    }
    #[inline(always)]
    unsafe fn sums(offset: i32) -> [int32x4_t; 4] {
        // SAFETY: as above.
        unsafe { [vdupq_n_s32(offset); 4] }
    }
    #[inline(always)]
    unsafe fn add(sums: [int32x4_t; 4], x: [int16x8_t; 2], w: int16x8_t) -> [int32x4_t; 4] {
        // SAFETY: as above.
        unsafe {
            let low = vget_low_s16(w);
            [
                vmlal_s16(sums[0], vget_low_s16(x[0]), low),
                vmlal_high_s16(sums[1], x[0], w),
                vmlal_s16(sums[2], vget_low_s16(x[1]), low),
                vmlal_high_s16(sums[3], x[1], w),
            ]
        }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(value) }
    }
    #[inline(always)]
    unsafe fn zero_point(value: u8) -> uint8x16_t {
        // SAFETY: as above.
        unsafe { vdupq_n_u8(value) }
    }
    #[inline(always)]
    unsafe fn real<const S: usize>(
        sums: [int32x4_t; 4],
        scale: float32x4_t,
        bias: float32x4_t,
    ) -> [float32x4_t; 4] {
        // SAFETY: as above.
        sums.map(|sums| unsafe { vaddq_f32(vmulq_f32(vcvtq_f32_s32(sums), scale), bias) })
    }
    #[inline(always)]
    unsafe fn add_residual(reals: [float32x4_t; 4], from: *const u8, how: Residual) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe {
            let [a, b] =
                widen(vld1q_u8(from)).map(|steps| vsubq_s16(steps, vdupq_n_s16(i16::from(how.zero_point))));
            let steps = [
                vmovl_s16(vget_low_s16(a)),
                vmovl_high_s16(a),
                vmovl_s16(vget_low_s16(b)),
                vmovl_high_s16(b),
            ];
            std::array::from_fn(|i| {
                vaddq_f32(reals[i], vmulq_f32(vcvtq_f32_s32(steps[i]), vdupq_n_f32(how.scale)))
            })
        }
    }
    #[inline(always)]
    unsafe fn store_u8(
        to: *mut u8,
        reals: [float32x4_t; 4],
        [lo, hi]: [float32x4_t; 2],
        zero_point: uint8x16_t,
    ) {
        // SAFETY: as above.
        unsafe {
            // As `strip_i8::quantize`: bounds first, then an addition that leaves the integer in the low bits.
            let [a, b, c, d] = reals.map(|reals| {
                // `maxnm` gives the number where the other operand is a NaN.
                let bounded = vminq_f32(vmaxnmq_f32(reals, lo), hi);
                vmovn_u32(vreinterpretq_u32_f32(vaddq_f32(bounded, vdupq_n_f32(12_582_912.0))))
            });
            let low = vcombine_u8(vmovn_u16(vcombine_u16(a, b)), vmovn_u16(vcombine_u16(c, d)));
            vst1q_u8(to, vaddq_u8(low, zero_point));
        }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, reals: [float32x4_t; 4], [lo, hi]: [float32x4_t; 2]) {
        for (i, reals) in reals.into_iter().enumerate() {
            // SAFETY: as above. Both are NaN where an operand is.
            unsafe { vst1q_f32(to.add(4 * i), vminq_f32(vmaxq_f32(reals, lo), hi)) }
        }
    }
}
