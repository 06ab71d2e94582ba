//! Look-up, 16 bytes at a time: `tbl` and `tbx` look up in 64 bytes of the table each; indices beyond give 0, or keep.

#![allow(unsafe_code, reason = "intrinsics of a tier that `get` proves")]

use super::{LookupFn, lookup_each};
use crate::isa::Neon;
use std::arch::aarch64::*;

pub(super) fn get() -> Option<LookupFn> {
    // SAFETY: a `Neon` exists only where the CPU has the features `run` is compiled with; the rest is the caller's.
    Neon::detect().map(|_| (|table, x, y, n| unsafe { run(table, x, y, n) }) as LookupFn)
}

#[target_feature(enable = "neon")]
unsafe fn run(table: &[u8; 256], x: *const u8, y: *mut u8, n: usize) {
    let p = table.as_ptr();
    let whole = n - n % 16;
    // SAFETY: the table has four times 64 bytes; 16 bytes from each `i` on lie within `n`.
    unsafe {
        let quarters =
            [vld1q_u8_x4(p), vld1q_u8_x4(p.add(64)), vld1q_u8_x4(p.add(128)), vld1q_u8_x4(p.add(192))];
        let step = vdupq_n_u8(64);
        for i in (0..whole).step_by(16) {
            let mut index = vld1q_u8(x.add(i));
            let mut value = vqtbl4q_u8(quarters[0], index);
            for quarter in &quarters[1..] {
                index = vsubq_u8(index, step);
                value = vqtbx4q_u8(value, *quarter, index);
            }
            vst1q_u8(y.add(i), value);
        }
        lookup_each(table, x.add(whole), y.add(whole), n - whole);
    }
}
