//! NEON: a non-zero at a time, its row of the panel widened to 16 bits for `smlal`.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

#[allow(clippy::wildcard_imports, reason = "half the file is intrinsics")]
use std::arch::aarch64::*;

use super::{Kernel, Row, rows};
use crate::isa::Neon;
use crate::kernels::strip_i8::{LANES, NR, StripI8, store_rows};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    Neon::detect().map(|_| run as Kernel)
}

#[target_feature(enable = "neon")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's.
    unsafe {
        match s.vectors() {
            1 => rows(s, |row, sums| add::<1>(s, row, sums)),
            2 => rows(s, |row, sums| add::<2>(s, row, sums)),
            3 => rows(s, |row, sums| add::<3>(s, row, sums)),
            _ => rows(s, |row, sums| add::<4>(s, row, sums)),
        }
    }
}

/// Adds a row's non-zeros, and stores it where they are its last, over `V` vectors of [`LANES`] columns.
///
/// # Safety
/// The panel has the row's indices, and the columns; the strip has the row.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn add<const V: usize>(s: &StripI8<'_, SparseRows<'_, i8>>, row: &Row<'_>, sums: &mut [i32; NR]) {
    let (parts, _) = sums.as_chunks_mut::<4>();
    let mut acc = [[vdupq_n_s32(row.start.unwrap_or(0)); 4]; V];
    if row.start.is_none() {
        for (acc, part) in acc.as_flattened_mut().iter_mut().zip(parts.iter()) {
            // SAFETY: four sums fill a register.
            *acc = unsafe { vld1q_s32(part.as_ptr()) };
        }
    }
    for (&index, &w) in row.indices.iter().zip(row.values) {
        let x = row.panel.wrapping_add(usize::from(index) * row.stride);
        let w = i16::from(w);
        for (v, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let x = unsafe { vld1q_u8(x.add(v * LANES)) };
            let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
            let high = vreinterpretq_s16_u16(vmovl_high_u8(x));
            acc[0] = vmlal_n_s16(acc[0], vget_low_s16(low), w);
            acc[1] = vmlal_high_n_s16(acc[1], low, w);
            acc[2] = vmlal_n_s16(acc[2], vget_low_s16(high), w);
            acc[3] = vmlal_high_n_s16(acc[3], high, w);
        }
    }
    for (acc, part) in acc.as_flattened().iter().zip(parts.iter_mut()) {
        // SAFETY: four sums fill a register.
        unsafe { vst1q_s32(part.as_mut_ptr(), *acc) };
    }
    if row.last {
        // SAFETY: the row is the strip's.
        unsafe { store_rows(s, row.r, std::slice::from_ref(sums)) };
    }
}
