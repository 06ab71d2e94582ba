//! The other way to lay a product out: few rows of activations, output channels in the SIMD lanes.
//!
//! The arithmetic is that of [`strip_i8`](super); what is a column there is a row here, contiguous in its features, so a
//! batch of vectors needs no transposing. Used by `gemv_i8` and `spmv_i8`.

#![allow(
    unsafe_code,
    reason = "rows are parts of a tensor that other threads write to: pointers, not slices"
)]

use std::ops::Range;

use super::{Output, Requant, clamp, quantize};
use crate::weight::TILE;

/// Most rows of activations that vector kernels take at a time; a call may have more.
pub const MAX_ROWS: usize = 8;

/// How one row of activations was quantized, where each has a range of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Each {
    /// The byte that stands for zero.
    pub zero_point: i32,
    /// What a step is worth.
    pub scale: f32,
}

/// One call of a kernel: some rows of a weight `W` `(m, k)` times rows of activations, `out[i][r]` for each `i < n`.
///
/// Nothing is read or written beyond the `k` bytes of a row of `x` and the elements `rows` of a row of the output and the
/// residual.
#[derive(Clone, Copy, Debug)]
pub struct RowsI8<'a, W> {
    /// The weight; at most [`MAX_DEPTH`](super::MAX_DEPTH) deep.
    pub weight: W,
    /// Rows of the weight to compute; starts at a multiple of [`TILE`] and ends at one or at the weight's last row.
    pub rows: (usize, usize),
    /// The activations, `n` rows of `k` bytes.
    pub x: *const u8,
    /// Bytes from one row of activations to the next.
    pub x_stride: usize,
    /// Rows of activations, at least one.
    pub n: usize,
    /// Element `(0, 0)` of the output (channel 0, not `rows.0`): bytes, or an aligned `f32` where that is the output.
    pub out: *mut u8,
    /// Elements from one row of the output to the next.
    pub out_stride: usize,
    /// Element `(0, 0)` of the residual, or null where `requant` has none. May be `out` itself where that is uint8.
    pub residual: *const u8,
    /// Bytes from one row of the residual to the next.
    pub residual_stride: usize,
    /// What is done to a finished sum.
    pub requant: Requant<'a>,
    /// An entry a row of activations, where each has a range of its own: offsets are then multiplied by its zero point,
    /// scales, in one rounding, by its scale.
    pub each: Option<&'a [Each]>,
}

impl<W> RowsI8<'_, W> {
    /// The rows of the weight as a range.
    pub fn rows(&self) -> Range<usize> {
        self.rows.0..self.rows.1
    }
}

/// What leaves offsets and scales as they are.
const ALL_ALIKE: Each = Each { zero_point: 1, scale: 1.0 };

/// Stores sums of products, offsets not included, of activations `i` and the tile of channels from `r0`.
///
/// # Safety
/// The call's pointers are valid as [`RowsI8`] says; it has the activations, and the channels up to its last.
#[inline(always)]
pub(in crate::kernels) unsafe fn store_tile<W>(s: &RowsI8<'_, W>, i: usize, r0: usize, sums: &[i32; TILE]) {
    if r0 + TILE <= s.rows.1 {
        // SAFETY: the caller's.
        unsafe { store_lanes(s, i, r0, sums) };
    } else {
        for (r, &sum) in (r0..s.rows.1).zip(sums) {
            // SAFETY: the caller's.
            unsafe { store_lanes(s, i, r, &[sum]) };
        }
    }
}

/// Stores the sums of activations `i` and channels `r..r + N`.
///
/// # Safety
/// As [`store_tile`].
#[inline(always)]
unsafe fn store_lanes<const N: usize, W>(s: &RowsI8<'_, W>, i: usize, r: usize, sums: &[i32; N]) {
    fn lanes<T, const N: usize>(of: &[T], r: usize) -> &[T; N] {
        of[r..].first_chunk().expect("a requantization has an entry a row")
    }
    let (offset, scale, bias) = (
        lanes::<_, N>(s.requant.offset, r),
        lanes::<_, N>(s.requant.scale, r),
        lanes::<_, N>(s.requant.bias, r),
    );
    let Each { zero_point, scale: step } = s.each.map_or(ALL_ALIKE, |each| each[i]);
    let mut y: [f32; N] = std::array::from_fn(|l| {
        let offset = zero_point.wrapping_mul(offset[l]);
        Requant::real(sums[l].wrapping_add(offset), step * scale[l], bias[l])
    });
    if let Some(residual) = s.requant.residual {
        // SAFETY: the call has these elements; bytes have no alignment.
        let addend = unsafe { s.residual.add(i * s.residual_stride + r).cast::<[u8; N]>().read() };
        y = std::array::from_fn(|l| residual.add(y[l], addend[l]));
    }
    match s.requant.output {
        Output::U8 { zero_point, lo, hi } => {
            let bytes = y.map(|y| quantize(y, zero_point, lo, hi));
            // SAFETY: the call has these elements; bytes have no alignment.
            unsafe { s.out.add(i * s.out_stride + r).cast::<[u8; N]>().write(bytes) };
        }
        Output::F32 { lo, hi } => {
            let y = y.map(|y| clamp(y, lo, hi));
            // SAFETY: the call has these elements, and its output is of aligned floats.
            unsafe { s.out.cast::<f32>().add(i * s.out_stride + r).cast::<[f32; N]>().write(y) };
        }
    }
}

/// Cuts the rows of activations into the sizes a tier has code for, `N` largest first, and hands each to its code.
macro_rules! by_rows {
    ($s:ident, $($n:literal => $run:expr),+) => {
        let mut i = 0;
        while i < $s.n {
            let left = $s.n - i;
            $(if left >= $n {
                // SAFETY: the caller's; so many rows are left.
                unsafe { $run($s, i) };
                i += $n;
                continue;
            })+
        }
    };
}
pub(in crate::kernels) use by_rows;
