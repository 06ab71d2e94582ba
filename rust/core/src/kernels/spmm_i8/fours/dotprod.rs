//! ARM dot products: `sdot` by element, four columns a register, four fours' weights in one.
//!
//! `sdot` multiplies signed bytes, so the panel holds `x - 128` and `128 · Σ w` is added to a sum.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::dotprod::{sdot, sdot_lane};
use crate::kernels::strip_i8::{FLIP, LANES, StripI8, StripI8Kernel, Sums, store_rows, word};
use crate::weight::SparseRows;

/// Registers of [`LANES`] columns.
const V: usize = LANES / 4;

pub(super) fn get() -> Option<StripI8Kernel<Run>> {
    beside_dense(Tier::DotProd, run)
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
    // SAFETY: the caller's.
    unsafe {
        parts(s, |part, sums| {
            let vectors = s.vectors();
            for v in (0..vectors / 2 * 2).step_by(2) {
                add::<{ 2 * V }>(part, v * LANES, sums);
            }
            if vectors % 2 == 1 {
                add::<V>(part, (vectors - 1) * LANES, sums);
            }
            if part.last {
                store_rows(s, part.r0, &sums.0[..part.counts.len()]);
            }
        });
    }
}

/// Adds a part over `N` registers of columns.
///
/// # Safety
/// The panel has the part's indices, and the columns.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn add<const N: usize>(part: &Part<'_, [i8; 4]>, column: usize, sums: &mut Sums) {
    let panel = part.panel.wrapping_add(column * 4);
    let mut at = 0;
    for (r, (&count, sums)) in part.counts.iter().zip(&mut sums.0).enumerate() {
        let end = at + usize::from(count);
        let (row, values) = (&part.indices[at..end], &part.values[at..end]);
        at = end;
        let flip: i32 = values.as_flattened().iter().map(|&w| i32::from(w)).sum();
        let flip = vdupq_n_s32(i32::from(FLIP) * flip);
        let sums = sums[column..].as_mut_ptr();
        let mut acc: [int32x4_t; N] = std::array::from_fn(|v| {
            let so_far = match part.start {
                Some(start) => vdupq_n_s32(start[r]),
                // SAFETY: so many registers of sums lie there.
                None => unsafe { vld1q_s32(sums.add(4 * v)) },
            };
            vaddq_s32(so_far, flip)
        });
        let x = |index: u8, v: usize| {
            let x = panel.wrapping_add(usize::from(index) * part.stride);
            // SAFETY: the caller's.
            unsafe { vld1q_s8(x.add(16 * v).cast()) }
        };
        let ((fours, few), (four_values, few_values)) = (row.as_chunks::<4>(), values.as_chunks::<4>());
        for (indices, values) in fours.iter().zip(four_values) {
            // SAFETY: sixteen weights fill a register.
            let w = unsafe { vld1q_s8(values.as_flattened().as_ptr()) };
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = sdot_lane::<0>(*acc, x(indices[0], v), w);
                *acc = sdot_lane::<1>(*acc, x(indices[1], v), w);
                *acc = sdot_lane::<2>(*acc, x(indices[2], v), w);
                *acc = sdot_lane::<3>(*acc, x(indices[3], v), w);
            }
        }
        for (&index, &w) in few.iter().zip(few_values) {
            let w = vreinterpretq_s8_s32(vdupq_n_s32(word(w)));
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = sdot(*acc, x(index, v), w);
            }
        }
        for (v, &acc) in acc.iter().enumerate() {
            // SAFETY: as they were loaded.
            unsafe { vst1q_s32(sums.add(4 * v), acc) };
        }
    }
}
