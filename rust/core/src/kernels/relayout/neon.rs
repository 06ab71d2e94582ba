//! Tiles of 8×8, as four of 4×4: both halves of a 32-byte run of the output are written one after the other.

#![allow(unsafe_code, reason = "intrinsics of a tier that `get` proves")]

use super::{TransposeFn, tiled};
use crate::isa::Neon;
use std::arch::aarch64::*;

pub(super) fn get() -> Option<TransposeFn> {
    Neon::detect().map(|_| run as TransposeFn)
}

unsafe fn run(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize, rows: usize, columns: usize) {
    // SAFETY: the caller's; `get` gave this function out, so the processor has the tier.
    unsafe { tiled::<u32, 8>(x, x_stride, y, y_stride, rows, columns, tile) }
}

#[target_feature(enable = "neon")]
unsafe fn tile(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize) {
    for c in [0, 4] {
        for r in [0, 4] {
            // SAFETY: four rows of four elements, within eight of eight.
            unsafe { quarter(x.add(r * x_stride + c), x_stride, y.add(c * y_stride + r), y_stride) };
        }
    }
}

/// Elements, then pairs, are exchanged across the diagonal.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn quarter(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize) {
    // SAFETY: four rows of four elements at both.
    unsafe {
        let low = vtrnq_u32(vld1q_u32(x), vld1q_u32(x.add(x_stride)));
        let high = vtrnq_u32(vld1q_u32(x.add(2 * x_stride)), vld1q_u32(x.add(3 * x_stride)));
        vst1q_u32(y, vcombine_u32(vget_low_u32(low.0), vget_low_u32(high.0)));
        vst1q_u32(y.add(y_stride), vcombine_u32(vget_low_u32(low.1), vget_low_u32(high.1)));
        vst1q_u32(y.add(2 * y_stride), vcombine_u32(vget_high_u32(low.0), vget_high_u32(high.0)));
        vst1q_u32(y.add(3 * y_stride), vcombine_u32(vget_high_u32(low.1), vget_high_u32(high.1)));
    }
}
