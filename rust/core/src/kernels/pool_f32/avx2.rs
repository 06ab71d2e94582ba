//! `rows`, compiled for AVX2.

#![allow(unsafe_code, reason = "calls behind the Avx2 token")]

use super::{Divisor, Kernels, rows};
use crate::isa::Avx2;
use crate::kernels::window::Window2;

pub(super) fn get() -> Option<Kernels> {
    Avx2::detect().map(|_| Kernels {
        // SAFETY: an `Avx2` exists only where the processor has the features these are compiled with.
        max: |window, x, out| unsafe { max(window, x, out) },
        // SAFETY: as above.
        average: |window, divisor, x, out| unsafe { average(window, divisor, x, out) },
        // SAFETY: as above.
        mean: |x| unsafe { mean(x) },
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
fn max(window: &Window2, x: &[f32], out: &mut [f32]) {
    rows::max(window, x, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn average(window: &Window2, divisor: Divisor, x: &[f32], out: &mut [f32]) {
    rows::average(window, divisor, x, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mean(x: &[f32]) -> f32 {
    rows::mean(x)
}
