//! The portable tier: a row at a time, its sixty-four sums in an array the compiler keeps in what vectors there are.

#![allow(unsafe_code, reason = "reads a panel through its pointer")]

use super::Tiles;
use crate::kernels::strip_i8::{Block, LANES, StripI8, Sums, dense, interleave, store_rows};
use crate::weight::{QUAD, TilesI8};

pub(super) fn get() -> Tiles {
    Tiles { run, pack, gathers: None }
}

unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe { interleave(rows, n, panel, stride, 0) };
}

unsafe fn run(s: &StripI8<'_, TilesI8<'_>>) {
    let columns = s.vectors() * LANES;
    // SAFETY: the caller's; a block's panel and weights reach as far as its quads and the strip's columns.
    unsafe { dense(s, |block, sums| add(block, columns, sums), |r0, sums| store_rows(s, r0, sums)) };
}

/// Adds one block.
///
/// # Safety
/// The block's panel has `columns` columns.
unsafe fn add(block: Block<'_>, columns: usize, sums: &mut Sums) {
    for (r, sums) in sums.0[..block.rows].iter_mut().enumerate() {
        let sums = &mut sums[..columns];
        if let Some(start) = block.start {
            sums.fill(start[r]);
        }
        for (q, quad) in block.weights.iter().enumerate() {
            let w = quad[r].map(i32::from);
            // SAFETY: the panel has the columns for each of its quads.
            let x = unsafe {
                let x = block.panel.add(q * block.stride * QUAD).cast::<[u8; QUAD]>();
                std::slice::from_raw_parts(x, columns)
            };
            for (sum, x) in sums.iter_mut().zip(x) {
                for i in 0..QUAD {
                    *sum += w[i] * i32::from(x[i]);
                }
            }
        }
    }
}
