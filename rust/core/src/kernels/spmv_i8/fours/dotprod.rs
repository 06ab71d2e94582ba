//! ARM dot products: `sdot`, four fours of a row at a time.
//!
//! `sdot` multiplies signed bytes: of `x - 128`, and of minus 128 for what a sum then lacks.

#![allow(unsafe_code, reason = "vector loads through pointers")]

use std::arch::aarch64::*;

use super::neon::gather;
use super::{Kernel, dot_each, walk};
use crate::isa::DotProd;
use crate::kernels::strip_i8::FLIP;
use crate::kernels::strip_i8::dotprod::sdot;
use crate::kernels::strip_i8::rows::RowsI8;
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    DotProd::detect().map(|_| Kernel::Rows(run))
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn run(s: &RowsI8<'_, SparseRows<'_, [i8; 4]>>) {
    // SAFETY: the caller's; `sparse_starts` has checked the columns.
    unsafe { walk(s, |x, columns, values| dot(x, columns, values)) };
}

/// The product of some fours of a row with `x`.
///
/// # Safety
/// `x` has every column named.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn dot(x: *const [u8; 4], columns: &[u8], values: &[[i8; 4]]) -> i32 {
    let ((some, few), (some_values, few_values)) = (columns.as_chunks::<4>(), values.as_chunks::<4>());
    let (mut sum, mut lacking) = (vdupq_n_s32(0), vdupq_n_s32(0));
    let flip = vdupq_n_u8(FLIP);
    for (&columns, values) in some.iter().zip(some_values) {
        // SAFETY: the caller's; sixteen weights fill a register.
        let (x, w) = unsafe { (gather(x, columns), vld1q_s8(values.as_flattened().as_ptr())) };
        sum = sdot(sum, vreinterpretq_s8_u8(veorq_u8(x, flip)), w);
        lacking = sdot(lacking, vreinterpretq_s8_u8(flip), w);
    }
    // SAFETY: the caller's.
    vaddvq_s32(vsubq_s32(sum, lacking)) + unsafe { dot_each(x, few, few_values) }
}
