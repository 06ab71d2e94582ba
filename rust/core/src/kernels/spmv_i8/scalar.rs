//! The portable tier: a non-zero at a time, of one row of the weight, for up to four vectors.

#![allow(unsafe_code, reason = "reads activations through their pointer")]

use super::Kernel;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows, store_tile};
use crate::weight::{SparseRows, TILE};

pub(super) fn get() -> Kernel {
    Kernel::Rows(run)
}

unsafe fn run(s: &RowsI8<'_, SparseRows<'_, i8>>) {
    by_rows!(s, 4 => |s, i| vectors::<4>(s, i), 1 => |s, i| vectors::<1>(s, i));
}

/// Vectors `i..i + N`.
///
/// # Safety
/// As [`Kernel`]; there are so many vectors.
unsafe fn vectors<const N: usize>(s: &RowsI8<'_, SparseRows<'_, i8>>, i: usize) {
    // SAFETY: the caller's.
    let x: [&[u8]; N] = std::array::from_fn(|j| unsafe {
        std::slice::from_raw_parts(s.x.add((i + j) * s.x_stride), s.weight.k())
    });
    for r0 in s.rows().step_by(TILE) {
        let rows = r0..s.rows.1.min(r0 + TILE);
        let mut sums = [[0; TILE]; N];
        for block in (0..s.weight.blocks()).map(|b| s.weight.at(b)) {
            let x = x.map(|x| &x[block.k0..]);
            let mut at = block.starts[r0 / TILE] as usize;
            for (lane, &count) in block.counts[rows.clone()].iter().enumerate() {
                let end = at + usize::from(count);
                let (indices, values) = (&block.indices[at..end], &block.values[at..end]);
                // Several chains of additions: one would wait for itself at each non-zero.
                let mut part = [[0; 4]; N];
                let (whole, left) = indices.as_chunks::<4>();
                let (whole_values, left_values) = values.as_chunks::<4>();
                for (indices, values) in whole.iter().zip(whole_values) {
                    for (part, x) in part.iter_mut().zip(x) {
                        for l in 0..4 {
                            part[l] += i32::from(values[l]) * i32::from(x[usize::from(indices[l])]);
                        }
                    }
                }
                for (&index, &w) in left.iter().zip(left_values) {
                    for (part, x) in part.iter_mut().zip(x) {
                        part[0] += i32::from(w) * i32::from(x[usize::from(index)]);
                    }
                }
                for (sums, part) in sums.iter_mut().zip(part) {
                    sums[lane] += part.iter().sum::<i32>();
                }
                at = end;
            }
        }
        for (j, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { store_tile(s, i + j, r0, sums) };
        }
    }
}
