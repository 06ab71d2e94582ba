//! The portable tier: a non-zero at a time over the strip's columns.

#![allow(unsafe_code, reason = "reads a panel through its pointer")]

use super::{Kernel, Row, rows};
use crate::kernels::strip_i8::{LANES, NR, StripI8, store_rows};
use crate::weight::SparseRows;

pub(super) fn get() -> Kernel {
    run
}

unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    let columns = s.vectors() * LANES;
    let add = |row: &Row<'_>, sums: &mut [i32; NR]| {
        let part = &mut sums[..columns];
        if let Some(start) = row.start {
            part.fill(start);
        }
        for (&index, &w) in row.indices.iter().zip(row.values) {
            // SAFETY: an index is a row of the panel, which has the columns.
            let x = unsafe {
                std::slice::from_raw_parts(row.panel.add(usize::from(index) * row.stride), columns)
            };
            for (sum, &x) in part.iter_mut().zip(x) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
        if row.last {
            // SAFETY: the row is the strip's.
            unsafe { store_rows(s, row.r, std::slice::from_ref(sums)) };
        }
    };
    // SAFETY: the caller's.
    unsafe { rows(s, add) };
}
