//! NEON: a non-zero at a time, its row of the panel widened to 16 bits for `smlal`.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::{ByRows, Part, parts};
use crate::isa::Neon;
use crate::kernels::strip_i8::{LANES, StripI8, Sums, store_rows};
use crate::weight::SparseRows;

pub(super) fn get() -> Option<ByRows> {
    Neon::detect().map(|_| run as ByRows)
}

#[target_feature(enable = "neon")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's.
    unsafe {
        parts(s, |part, sums| {
            match s.vectors() {
                1 => add::<1>(part, sums),
                2 => add::<2>(part, sums),
                3 => add::<3>(part, sums),
                _ => add::<4>(part, sums),
            }
            if part.last {
                store_rows(s, part.r0, &sums.0[..part.counts.len()]);
            }
        });
    }
}

/// Adds a part over `V` vectors of [`LANES`] columns.
///
/// # Safety
/// The panel has the part's indices, and the columns.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn add<const V: usize>(part: &Part<'_, i8>, sums: &mut Sums) {
    let mut at = 0;
    for (r, (&count, sums)) in part.counts.iter().zip(&mut sums.0).enumerate() {
        let (sums, _) = sums.as_chunks_mut::<4>();
        let mut acc = [[vdupq_n_s32(0); 4]; V];
        for (acc, sums) in acc.as_flattened_mut().iter_mut().zip(sums.iter()) {
            *acc = match part.start {
                Some(start) => vdupq_n_s32(start[r]),
                // SAFETY: four sums fill a register.
                None => unsafe { vld1q_s32(sums.as_ptr()) },
            };
        }
        let end = at + usize::from(count);
        for (&index, &w) in part.indices[at..end].iter().zip(&part.values[at..end]) {
            let x = part.panel.wrapping_add(usize::from(index) * part.stride);
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
        for (&acc, sums) in acc.as_flattened().iter().zip(sums) {
            // SAFETY: four sums fill a register.
            unsafe { vst1q_s32(sums.as_mut_ptr(), acc) };
        }
        at = end;
    }
}
