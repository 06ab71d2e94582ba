//! Tiles of 16×16: a row is a cache line, sixteen rows half of the registers.

#![allow(unsafe_code, reason = "intrinsics of a tier that `get` proves")]

use super::{TransposeFn, tiled};
use crate::isa::Avx512;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<TransposeFn> {
    Avx512::detect().map(|_| run as TransposeFn)
}

unsafe fn run(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize, rows: usize, columns: usize) {
    // SAFETY: the caller's; `get` gave this function out, so the processor has the tier.
    unsafe { tiled::<u32, 16>(x, x_stride, y, y_stride, rows, columns, transpose) }
}

/// Transposes a tile of 16×16.
///
/// No hardware prefetcher follows so many rows at once, so each row's next lines are asked for: two tiles on in `x`, which is
/// a column block further, one in `y`.
///
/// Elements, then pairs, are exchanged within 128-bit blocks, then the blocks in two steps.
///
/// # Safety
/// Both sides have sixteen rows of sixteen elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn transpose(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize) {
    let mut a = [_mm512_setzero_ps(); 16];
    let mut b = a;
    for (r, row) in a.iter_mut().enumerate() {
        // SAFETY: sixteen rows of sixteen elements.
        *row = unsafe { _mm512_loadu_ps(x.add(r * x_stride).cast()) };
        _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(r * x_stride + 32).cast());
    }
    for i in 0..8 {
        b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for i in [0, 4, 8, 12] {
        a[i] = _mm512_shuffle_ps::<0x44>(b[i], b[i + 2]);
        a[i + 1] = _mm512_shuffle_ps::<0xEE>(b[i], b[i + 2]);
        a[i + 2] = _mm512_shuffle_ps::<0x44>(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_shuffle_ps::<0xEE>(b[i + 1], b[i + 3]);
    }
    // Block k of a[4i + j] now holds column 4k + j of rows 4i to 4i + 3.
    for j in 0..4 {
        b[j] = _mm512_shuffle_f32x4::<0x88>(a[j], a[4 + j]);
        b[4 + j] = _mm512_shuffle_f32x4::<0xDD>(a[j], a[4 + j]);
        b[8 + j] = _mm512_shuffle_f32x4::<0x88>(a[8 + j], a[12 + j]);
        b[12 + j] = _mm512_shuffle_f32x4::<0xDD>(a[8 + j], a[12 + j]);
    }
    for j in 0..4 {
        a[j] = _mm512_shuffle_f32x4::<0x88>(b[j], b[8 + j]);
        a[4 + j] = _mm512_shuffle_f32x4::<0x88>(b[4 + j], b[12 + j]);
        a[8 + j] = _mm512_shuffle_f32x4::<0xDD>(b[j], b[8 + j]);
        a[12 + j] = _mm512_shuffle_f32x4::<0xDD>(b[4 + j], b[12 + j]);
    }
    for (r, row) in a.iter().enumerate() {
        // SAFETY: sixteen rows of sixteen elements.
        unsafe { _mm512_storeu_ps(y.add(r * y_stride).cast(), *row) };
        _mm_prefetch::<_MM_HINT_ET0>(y.wrapping_add((r + 16) * y_stride).cast());
    }
}
