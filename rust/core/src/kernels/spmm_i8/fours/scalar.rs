//! The portable tier: a four at a time over the strip's columns.

#![allow(unsafe_code, reason = "reads a panel through its pointer")]

use super::{Part, Run, beside_dense, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::{LANES, StripI8, StripI8Kernel, Sums, store_rows};
use crate::weight::SparseRows;

pub(super) fn get() -> StripI8Kernel<Run> {
    beside_dense(Tier::Scalar, run).expect("every processor has it")
}

unsafe fn run(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
    let columns = s.vectors() * LANES;
    // SAFETY: the caller's; the rows are the strip's.
    unsafe {
        parts(s, |part, sums| {
            add(part, columns, sums);
            if part.last {
                store_rows(s, part.r0, &sums.0[..part.counts.len()]);
            }
        });
    }
}

/// Adds a part.
///
/// # Safety
/// The panel has the part's indices, and the columns.
unsafe fn add(part: &Part<'_, [i8; 4]>, columns: usize, sums: &mut Sums) {
    let mut at = 0;
    for (r, &count) in part.counts.iter().enumerate() {
        let row = &mut sums.0[r][..columns];
        if let Some(start) = part.start {
            row.fill(start[r]);
        }
        let end = at + usize::from(count);
        for (&index, w) in part.indices[at..end].iter().zip(&part.values[at..end]) {
            let w = w.map(i32::from);
            // SAFETY: the caller's.
            let x = unsafe {
                let x = part.panel.add(usize::from(index) * part.stride).cast::<[u8; 4]>();
                std::slice::from_raw_parts(x, columns)
            };
            for (sum, x) in row.iter_mut().zip(x) {
                for i in 0..4 {
                    *sum += w[i] * i32::from(x[i]);
                }
            }
        }
        at = end;
    }
}
