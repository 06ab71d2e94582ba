//! The portable tier: a non-zero at a time over the strip's columns.

#![allow(unsafe_code, reason = "reads a panel through its pointer")]

use super::{Kernel, Row, rows};
use crate::kernels::strip_i8::{LANES, StripI8};
use crate::weight::SparseRows;

pub(super) fn get() -> Kernel {
    run
}

unsafe fn run(s: &StripI8<'_, SparseRows<'_, i8>>) {
    let columns = s.vectors() * LANES;
    let add = |row: &Row<'_>, sums: &mut [i32]| {
        if let Some(start) = row.start {
            sums.fill(start);
        }
        for (&index, &w) in row.indices.iter().zip(row.values) {
            // SAFETY: an index is a row of the panel, which has the columns.
            let x = unsafe {
                std::slice::from_raw_parts(row.panel.add(usize::from(index) * row.stride), columns)
            };
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
    };
    // SAFETY: the caller's.
    unsafe { rows(s, |row, sums| add(row, &mut sums[..columns])) };
}
