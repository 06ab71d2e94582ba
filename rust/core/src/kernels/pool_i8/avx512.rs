//! `rows`, compiled for AVX-512.

#![allow(unsafe_code, reason = "calls behind the Avx512 token")]

use super::{Divisor, Kernels, Rescale, rows};
use crate::isa::Avx512;
use crate::kernels::window::Window2;

pub(super) fn get() -> Option<Kernels> {
    Avx512::detect().map(|_| Kernels {
        // SAFETY: an `Avx512` exists only where the processor has the features these are compiled with.
        max: |window, x, out| unsafe { max(window, x, out) },
        // SAFETY: as above.
        average: |window, divisor, rescale, x, out| unsafe { average(window, divisor, rescale, x, out) },
        // SAFETY: as above.
        mean: |x, rescale| unsafe { mean(x, rescale) },
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn max(window: &Window2, x: &[u8], out: &mut [u8]) {
    rows::max(window, x, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn average(window: &Window2, divisor: Divisor, rescale: Rescale, x: &[u8], out: &mut [u8]) {
    rows::average(window, divisor, rescale, x, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn mean(x: &[u8], rescale: Rescale) -> u8 {
    rows::mean(x, rescale)
}
