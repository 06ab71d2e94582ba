//! Tiles in plain Rust.

#![allow(unsafe_code, reason = "see mod.rs")]

use super::tiled;

/// # Safety
/// That of [`super::TransposeFn`].
pub(super) unsafe fn run(
    x: *const u32,
    x_stride: usize,
    y: *mut u32,
    y_stride: usize,
    rows: usize,
    columns: usize,
) {
    // SAFETY: the caller's.
    unsafe { tiled::<u32, 8>(x, x_stride, y, y_stride, rows, columns, tile::<u32, 8>) }
}

/// Any element, row by row of the output.
///
/// # Safety
/// `N` rows of `N` elements at both.
pub(super) unsafe fn tile<T: Copy, const N: usize>(x: *const T, x_stride: usize, y: *mut T, y_stride: usize) {
    for c in 0..N {
        for r in 0..N {
            // SAFETY: the caller's.
            unsafe { *y.add(c * y_stride + r) = *x.add(r * x_stride + c) };
        }
    }
}

/// Eight rows of eight bytes, a row a word: blocks of 1, 2 and 4 bytes are exchanged across the diagonal.
///
/// # Safety
/// Eight rows of eight bytes at both.
pub(super) unsafe fn tile_u8(x: *const u8, x_stride: usize, y: *mut u8, y_stride: usize) {
    let mut rows = [0u64; 8];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *row = u64::from_le(unsafe { x.add(r * x_stride).cast::<u64>().read_unaligned() });
    }
    for (step, mask) in
        [(1, 0x00FF_00FF_00FF_00FFu64), (2, 0x0000_FFFF_0000_FFFF), (4, 0x0000_0000_FFFF_FFFF)]
    {
        for r in (0..8).filter(|r| r & step == 0) {
            let swapped = (rows[r] >> (8 * step) ^ rows[r + step]) & mask;
            rows[r + step] ^= swapped;
            rows[r] ^= swapped << (8 * step);
        }
    }
    for (r, row) in rows.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { y.add(r * y_stride).cast::<u64>().write_unaligned(row.to_le()) };
    }
}
