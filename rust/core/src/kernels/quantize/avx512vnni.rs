//! Look-up, 64 bytes at a time: the table is four registers, `vpermi2b` looks up in two of them.

#![allow(unsafe_code, reason = "intrinsics of a tier that `get` proves")]

use super::LookupFn;
use crate::isa::Avx512Vnni;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<LookupFn> {
    // SAFETY: an `Avx512Vnni` exists only where the CPU has the features `lookup` is compiled with; the rest is the
    // caller's.
    Avx512Vnni::detect().map(|_| (|table, x, y, n| unsafe { lookup(table, x, y, n) }) as LookupFn)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c,avx512vnni,avx512vbmi")]
unsafe fn lookup(table: &[u8; 256], x: *const u8, y: *mut u8, n: usize) {
    // SAFETY: a quarter of the table each.
    let quarter = |i: usize| unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * i).cast()) };
    let [q0, q1, q2, q3] = [quarter(0), quarter(1), quarter(2), quarter(3)];
    let mut i = 0;
    while i < n {
        let mask = if n - i >= 64 { u64::MAX } else { (1 << (n - i)) - 1 };
        // SAFETY: the mask keeps to what lies within `n`.
        unsafe {
            let index = _mm512_maskz_loadu_epi8(mask, x.add(i).cast());
            let low = _mm512_permutex2var_epi8(q0, index, q1);
            let high = _mm512_permutex2var_epi8(q2, index, q3);
            // The top bit of an index says which half.
            let value = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
            _mm512_mask_storeu_epi8(y.add(i).cast(), mask, value);
        }
        i += 64;
    }
}
