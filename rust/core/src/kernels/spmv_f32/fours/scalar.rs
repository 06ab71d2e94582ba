//! Portable: a row at a time, the values of a four dealt to four sums.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use half::f16;

use super::super::scalar::walk;
use super::super::{Call, RunRows};
use crate::kernels::spmm_f32::widen;
use crate::weight::SparseRows;

/// # Safety
/// What [`Kernel`](super::super::Kernel) asks.
#[inline]
unsafe fn run<T: Copy>(call: &Call<'_, SparseRows<'_, [T; 4]>>, widen: impl Fn(T) -> f32) {
    let dot = |x: *const f32, columns: &[u8], values: &[[T; 4]]| {
        let mut sums = [0.0; 4];
        for (&column, values) in columns.iter().zip(values) {
            // SAFETY: `sparse_starts` has checked that a column is one of the block, of four elements.
            let x = unsafe { x.add(usize::from(column) * 4).cast::<[f32; 4]>().read() };
            for i in 0..4 {
                sums[i] += widen(values[i]) * x[i];
            }
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    };
    // SAFETY: the caller's promise.
    unsafe { walk::<4, _>(call, dot) }
}

#[allow(clippy::unnecessary_wraps, reason = "the type of a table's entry")]
pub(super) fn get_f32() -> Option<RunRows<[f32; 4]>> {
    // SAFETY: the caller's promise.
    Some(|call| unsafe { run(call, |value| value) })
}

#[allow(clippy::unnecessary_wraps, reason = "the type of a table's entry")]
pub(super) fn get_f16() -> Option<RunRows<[f16; 4]>> {
    // SAFETY: the caller's promise.
    Some(|call| unsafe { run(call, widen) })
}

#[allow(clippy::unnecessary_wraps, reason = "the type of a table's entry")]
pub(super) fn get_i8() -> Option<RunRows<[i8; 4]>> {
    // SAFETY: the caller's promise.
    Some(|call| unsafe { run(call, f32::from) })
}
