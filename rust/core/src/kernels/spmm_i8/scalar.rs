//! The portable tier: a non-zero at a time over the strip's columns.

#![allow(unsafe_code, reason = "reads a panel through its pointer")]

use super::{ByRows, Part, parts};
use crate::kernels::strip_i8::{LANES, StripI8, Sums, store_rows};
use crate::weight::SparseRows;

pub(super) fn get() -> ByRows {
    run
}

unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    // SAFETY: the caller's.
    unsafe { parts(s, |part, sums| add(s, part, sums)) };
}

fn add(s: &StripI8<'_, SparseRows<'_, i8>>, part: &Part<'_, i8>, sums: &mut Sums) {
    let columns = s.vectors() * LANES;
    let mut at = 0;
    for (r, &count) in part.counts.iter().enumerate() {
        let row = &mut sums.0[r][..columns];
        if let Some(start) = part.start {
            row.fill(start[r]);
        }
        let end = at + usize::from(count);
        for (&index, &w) in part.indices[at..end].iter().zip(&part.values[at..end]) {
            // SAFETY: an index is a row of the panel, which has the columns.
            let x = unsafe {
                std::slice::from_raw_parts(part.panel.add(usize::from(index) * part.stride), columns)
            };
            for (sum, &x) in row.iter_mut().zip(x) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
        at = end;
    }
    if part.last {
        // SAFETY: the rows are the strip's.
        unsafe { store_rows(s, part.r0, &sums.0[..part.counts.len()]) };
    }
}
