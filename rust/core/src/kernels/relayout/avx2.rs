//! Tiles of 8×8: eight rows in eight of sixteen registers.

#![allow(unsafe_code, reason = "intrinsics of a tier that `get` proves")]

use super::{TransposeFn, tiled};
use crate::isa::Avx2;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<TransposeFn> {
    Avx2::detect().map(|_| run as TransposeFn)
}

unsafe fn run(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize, rows: usize, columns: usize) {
    // SAFETY: the caller's; `get` gave this function out, so the processor has the tier.
    unsafe { tiled::<u32, 8>(x, x_stride, y, y_stride, rows, columns, tile) }
}

/// Pairs, then quarters, then halves of rows are exchanged across the diagonal.
#[target_feature(enable = "avx2")]
unsafe fn tile(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize) {
    let mut a = [_mm256_setzero_ps(); 8];
    let mut b = a;
    for (r, row) in a.iter_mut().enumerate() {
        // SAFETY: eight rows of eight elements.
        *row = unsafe { _mm256_loadu_ps(x.add(r * x_stride).cast()) };
    }
    for i in 0..4 {
        b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for i in [0, 4] {
        a[i] = _mm256_shuffle_ps::<0x44>(b[i], b[i + 2]);
        a[i + 1] = _mm256_shuffle_ps::<0xEE>(b[i], b[i + 2]);
        a[i + 2] = _mm256_shuffle_ps::<0x44>(b[i + 1], b[i + 3]);
        a[i + 3] = _mm256_shuffle_ps::<0xEE>(b[i + 1], b[i + 3]);
    }
    for i in 0..4 {
        b[i] = _mm256_permute2f128_ps::<0x20>(a[i], a[i + 4]);
        b[i + 4] = _mm256_permute2f128_ps::<0x31>(a[i], a[i + 4]);
    }
    for (r, row) in b.iter().enumerate() {
        // SAFETY: eight rows of eight elements.
        unsafe { _mm256_storeu_ps(y.add(r * y_stride).cast(), *row) };
    }
}
