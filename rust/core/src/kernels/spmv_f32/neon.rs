//! NEON: four non-zeros of a row at a time, each lane of `x` loaded on its own.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::scalar::walk;
use super::{Call, Kernel, RunRows};
use crate::isa::Neon;
use crate::weight::{Number, SparseRows};

/// The product of some non-zeros of a row with `x`.
///
/// # Safety
/// `x` has every column named.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot<T: Number + Into<f32>>(
    x: *const f32,
    columns: &[u8],
    values: &[T],
    widen: impl Fn(&[T; 4]) -> float32x4_t,
) -> f32 {
    let ((fours, columns), (four_values, values)) = (columns.as_chunks::<4>(), values.as_chunks::<4>());
    let mut sum = vdupq_n_f32(0.0);
    for (columns, values) in fours.iter().zip(four_values) {
        let [a, b, c, d] = columns.map(usize::from);
        // SAFETY: the caller's promise.
        let x = unsafe {
            let x4 = vld1q_dup_f32(x.add(a));
            let x4 = vld1q_lane_f32::<1>(x.add(b), x4);
            let x4 = vld1q_lane_f32::<2>(x.add(c), x4);
            vld1q_lane_f32::<3>(x.add(d), x4)
        };
        sum = vfmaq_f32(sum, widen(values), x);
    }
    let mut sum = vaddvq_f32(sum);
    for (&column, &value) in columns.iter().zip(values) {
        // SAFETY: the caller's promise.
        sum = unsafe { *x.add(usize::from(column)) }.mul_add(value.into(), sum);
    }
    sum
}

/// # Safety
/// What [`Kernel`] asks.
#[target_feature(enable = "neon")]
unsafe fn run_f32(call: &Call<'_, SparseRows<'_, f32>>) {
    // SAFETY: the caller's promise; `sparse_starts` has checked the columns; four values.
    unsafe {
        walk::<1, _>(call, |x, columns, values| dot(x, columns, values, |values| vld1q_f32(values.as_ptr())))
    }
}

/// # Safety
/// What [`Kernel`] asks.
#[target_feature(enable = "neon")]
unsafe fn run_f16(call: &Call<'_, SparseRows<'_, f16>>) {
    // SAFETY: the caller's promise; `sparse_starts` has checked the columns; four values.
    unsafe { walk::<1, _>(call, |x, columns, values| dot(x, columns, values, |values| widen_f16(values))) }
}

/// # Safety
/// What [`Kernel`] asks.
#[target_feature(enable = "neon")]
unsafe fn run_i8(call: &Call<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's promise; `sparse_starts` has checked the columns.
    unsafe { walk::<1, _>(call, |x, columns, values| dot(x, columns, values, |values| widen_i8(values))) }
}

/// `fcvtl`, which every NEON has; its intrinsic is younger than this crate's oldest compiler.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen_f16(values: &[f16; 4]) -> float32x4_t {
    let single: float32x4_t;
    // SAFETY: four values; one instruction of the tier, from register to register.
    unsafe {
        let half = vld1_u16(values.as_ptr().cast());
        asm!("fcvtl {s:v}.4s, {h:v}.4h", s = lateout(vreg) single, h = in(vreg) half,
            options(pure, nomem, nostack, preserves_flags));
    }
    single
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen_i8(values: &[i8; 4]) -> float32x4_t {
    let bytes = vcreate_s8(u64::from(u32::from_le_bytes(values.map(i8::cast_unsigned))));
    vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
}

fn rows<T>(run: RunRows<T>) -> Option<Kernel<T>> {
    Neon::detect().map(|_| Kernel::Rows(run))
}

pub(super) fn get_f32() -> Option<Kernel<f32>> {
    rows(run_f32)
}

pub(super) fn get_f16() -> Option<Kernel<f16>> {
    rows(run_f16)
}

pub(super) fn get_i8() -> Option<Kernel<i8>> {
    rows(run_i8)
}
