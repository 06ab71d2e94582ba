//! NEON: four fours of a row at a time, in 16 bits for `smlal`.

#![allow(unsafe_code, reason = "vector loads through pointers")]

use std::arch::aarch64::*;

use super::{Kernel, dot_each, walk};
use crate::isa::Neon;
use crate::kernels::strip_i8::rows::RowsI8;
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    Neon::detect().map(|_| Kernel::Rows(run))
}

#[target_feature(enable = "neon")]
unsafe fn run(s: &RowsI8<'_, SparseRows<'_, [i8; 4]>>) {
    // SAFETY: the caller's; `sparse_starts` has checked the columns.
    unsafe { walk(s, |x, columns, values| dot(x, columns, values)) };
}

/// Four fours of `x` in a register.
///
/// # Safety
/// `x` has every column named.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn gather(x: *const [u8; 4], columns: [u8; 4]) -> uint8x16_t {
    // SAFETY: the caller's.
    let four = columns.map(|column| unsafe { x.add(usize::from(column)).read() });
    // SAFETY: sixteen bytes.
    unsafe { vld1q_u8(four.as_flattened().as_ptr()) }
}

/// The product of some fours of a row with `x`.
///
/// # Safety
/// `x` has every column named.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn dot(x: *const [u8; 4], columns: &[u8], values: &[[i8; 4]]) -> i32 {
    let ((some, few), (some_values, few_values)) = (columns.as_chunks::<4>(), values.as_chunks::<4>());
    let mut sum = vdupq_n_s32(0);
    for (&columns, values) in some.iter().zip(some_values) {
        // SAFETY: the caller's; sixteen weights fill a register.
        let (x, w) = unsafe { (gather(x, columns), vld1q_s8(values.as_flattened().as_ptr())) };
        let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
        let high = vreinterpretq_s16_u16(vmovl_high_u8(x));
        let (w_low, w_high) = (vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w));
        sum = vmlal_s16(sum, vget_low_s16(low), vget_low_s16(w_low));
        sum = vmlal_high_s16(sum, low, w_low);
        sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(w_high));
        sum = vmlal_high_s16(sum, high, w_high);
    }
    // SAFETY: the caller's.
    vaddvq_s32(sum) + unsafe { dot_each(x, few, few_values) }
}
