//! NEON: a four of a row a vector.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use std::arch::aarch64::*;

use half::f16;

use super::super::neon::{widen_f16, widen_i8};
use super::super::scalar::walk;
use super::super::{Call, RunRows};
use crate::isa::Neon;
use crate::weight::SparseRows;

/// The product of some fours of a row with `x`, dealt to two sums.
///
/// # Safety
/// `x` has every column named.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot<T>(
    x: *const f32,
    columns: &[u8],
    values: &[[T; 4]],
    widen: impl Fn(&[T; 4]) -> float32x4_t,
) -> f32 {
    // SAFETY: the caller's promise.
    let load = |column: u8| unsafe { vld1q_f32(x.add(usize::from(column) * 4)) };
    let mut sums = [vdupq_n_f32(0.0); 2];
    let ((pairs, columns), (pair_values, values)) = (columns.as_chunks::<2>(), values.as_chunks::<2>());
    for (columns, values) in pairs.iter().zip(pair_values) {
        for i in 0..2 {
            sums[i] = vfmaq_f32(sums[i], widen(&values[i]), load(columns[i]));
        }
    }
    if let ([column], [values]) = (columns, values) {
        sums[0] = vfmaq_f32(sums[0], widen(values), load(*column));
    }
    vaddvq_f32(vaddq_f32(sums[0], sums[1]))
}

macro_rules! tier {
    ($($t:ty, $run:ident, $get:ident, $widen:expr;)+) => {$(
        /// # Safety
        /// What [`Kernel`](super::super::Kernel) asks.
        #[target_feature(enable = "neon")]
        unsafe fn $run(call: &Call<'_, SparseRows<'_, [$t; 4]>>) {
            // SAFETY: the caller's promise; `sparse_starts` has checked the columns; four values.
            unsafe { walk::<4, _>(call, |x, columns, values| dot(x, columns, values, $widen)) }
        }

        pub(super) fn $get() -> Option<RunRows<[$t; 4]>> {
            Neon::detect().map(|_| $run as RunRows<[$t; 4]>)
        }
    )+};
}

tier! {
    f32, run_f32, get_f32, |values| vld1q_f32(values.as_ptr());
    f16, run_f16, get_f16, |values| widen_f16(values);
    i8, run_i8, get_i8, |values| widen_i8(values);
}
