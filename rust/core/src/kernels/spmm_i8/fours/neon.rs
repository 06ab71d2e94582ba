//! NEON: products in 16 bits, those of two fours added there, then two by two to sums in 32.
//!
//! As in the dense kernel, the panel holds `x - 128` and `128 · Σ w` is added to a sum; two products of at most 128 · 127 fit
//! 16 bits. Those of a row with a weight of -128 are added one by one.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::aarch64::*;

use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::{FLIP, LANES, StripI8, StripI8Kernel, Sums, store_rows, word};
use crate::weight::SparseRows;

/// Registers of [`LANES`] columns.
const V: usize = LANES / 4;

pub(super) fn get() -> Option<StripI8Kernel<Run>> {
    beside_dense(Tier::Neon, run)
}

#[target_feature(enable = "neon")]
unsafe fn run(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
    // SAFETY: the caller's.
    unsafe {
        parts(s, |part, sums| {
            for v in 0..s.vectors() {
                add(part, v * LANES, sums);
            }
            if part.last {
                store_rows(s, part.r0, &sums.0[..part.counts.len()]);
            }
        });
    }
}

/// Adds a part over [`LANES`] columns.
///
/// # Safety
/// The panel has the part's indices, and the columns.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn add(part: &Part<'_, [i8; 4]>, column: usize, sums: &mut Sums) {
    let panel = part.panel.wrapping_add(column * 4);
    let mut at = 0;
    for (r, (&count, sums)) in part.counts.iter().zip(&mut sums.0).enumerate() {
        let end = at + usize::from(count);
        let (row, values) = (&part.indices[at..end], &part.values[at..end]);
        at = end;
        // Each register of four columns has two of half sums.
        let mut acc = [[vdupq_n_s32(0); 2]; V];
        let x = |index: u8, v: usize| {
            let x = panel.wrapping_add(usize::from(index) * part.stride);
            // SAFETY: the caller's.
            unsafe { vld1q_s8(x.add(16 * v).cast()) }
        };
        let splat = |w: [i8; 4]| vreinterpretq_s8_s32(vdupq_n_s32(word(w)));
        let least = values.as_flattened().contains(&i8::MIN);
        let together = if least { 0 } else { row.len() & !1 };
        let (pairs, odd) = (row[..together].as_chunks::<2>().0, &row[together..]);
        let (pair_values, odd_values) = (values[..together].as_chunks::<2>().0, &values[together..]);
        for (indices, values) in pairs.iter().zip(pair_values) {
            let (w0, w1) = (splat(values[0]), splat(values[1]));
            for (v, [low, high]) in acc.iter_mut().enumerate() {
                let (x0, x1) = (x(indices[0], v), x(indices[1], v));
                let products = vmull_s8(vget_low_s8(x0), vget_low_s8(w0));
                *low = vpadalq_s16(*low, vmlal_s8(products, vget_low_s8(x1), vget_low_s8(w1)));
                *high = vpadalq_s16(*high, vmlal_high_s8(vmull_high_s8(x0, w0), x1, w1));
            }
        }
        for (&index, &w) in odd.iter().zip(odd_values) {
            let w = splat(w);
            for (v, [low, high]) in acc.iter_mut().enumerate() {
                let x = x(index, v);
                *low = vpadalq_s16(*low, vmull_s8(vget_low_s8(x), vget_low_s8(w)));
                *high = vpadalq_s16(*high, vmull_high_s8(x, w));
            }
        }
        let flip: i32 = values.as_flattened().iter().map(|&w| i32::from(w)).sum();
        let flip = vdupq_n_s32(i32::from(FLIP) * flip);
        for (v, &[low, high]) in acc.iter().enumerate() {
            let to = sums[column + 4 * v..].as_mut_ptr();
            // SAFETY: four sums lie there.
            unsafe {
                let so_far = match part.start {
                    Some(start) => vdupq_n_s32(start[r]),
                    None => vld1q_s32(to),
                };
                vst1q_s32(to, vaddq_s32(so_far, vaddq_s32(vpaddq_s32(low, high), flip)));
            }
        }
    }
}
