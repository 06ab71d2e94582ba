//! `rows`, compiled for AVX-512; the greatest byte of small windows by masked loads, one a tap, since rows of few pixels are
//! too short for loops of the compiler's.

#![allow(unsafe_code, reason = "calls behind the Avx512 token; masked loads and stores through pointers")]

use super::{Divisor, Kernels, Rescale, rows};
use crate::isa::Avx512;
use crate::kernels::pack::LANES_U8;
use crate::kernels::window::Window2;
use std::arch::x86_64::*;

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

/// Most rows of a window whose taps are read one by one.
const MOST_ROWS: usize = 3;

/// Most vectors of a row of the input, of windows whose taps are read one by one.
const MOST_VECTORS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn max(window: &Window2, x: &[u8], out: &mut [u8]) {
    let fits = window.kernel[0] <= MOST_ROWS
        && window.ow.div_ceil(LANES_U8 / window.stride[1].min(LANES_U8)) <= MOST_VECTORS;
    match (window.kernel[1], window.stride[1]) {
        (2, 1) if fits => by_taps::<2, 1>(window, x, out),
        (2, 2) if fits => by_taps::<2, 2>(window, x, out),
        (3, 1) if fits => by_taps::<3, 1>(window, x, out),
        (3, 2) if fits => by_taps::<3, 2>(window, x, out),
        _ => rows::max(window, x, out),
    }
}

/// [`max`] of windows of `WIDE` columns, `STRIDE` apart: what each tap sees of a row of outputs is one load, of which every
/// `STRIDE`th byte counts. A byte of padding is zero, which is never greater.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn by_taps<const WIDE: usize, const STRIDE: usize>(window: &Window2, x: &[u8], out: &mut [u8]) {
    const { assert!(STRIDE == 1 || STRIDE == 2) };
    let Window2 { h, w, oh, ow, pad, dilation: [dy, dx], .. } = *window;
    assert!(x.len() >= h * w && out.len() >= oh * ow, "a slice is shorter than its plane");
    let outputs = LANES_U8 / STRIDE;
    let mut vectors = [[(0, 0); WIDE]; MOST_VECTORS];
    for (start, taps) in (0..ow).step_by(outputs).zip(&mut vectors) {
        // Where the first lane of each tap lies in a row, and which lanes are inside it.
        *taps = std::array::from_fn(|tx| {
            let first = (start * STRIDE + tx * dx) as isize - pad[1] as isize;
            let lanes = ((ow - start).min(outputs) * STRIDE) as isize;
            let (begin, end) = ((-first).clamp(0, lanes), (w as isize - first).clamp(0, lanes));
            (first, if begin < end { (u64::MAX >> (64 - (end - begin))) << begin } else { 0 })
        });
    }
    for oy in 0..oh {
        let (rows, top) = window.taps_of_row(oy);
        for (start, taps) in (0..ow).step_by(outputs).zip(&vectors) {
            let mut all = _mm512_setzero_si512();
            for row in (top..).step_by(dy).take(rows.len()) {
                let row = x.as_ptr().wrapping_add(row * w).cast::<i8>();
                for &(first, inside) in taps {
                    // SAFETY: a masked load reads the mask's lanes alone, which are inside the row.
                    let seen = unsafe { _mm512_maskz_loadu_epi8(inside, row.wrapping_offset(first)) };
                    all = _mm512_max_epu8(all, seen);
                }
            }
            let to = &mut out[oy * ow..][..ow][start..];
            let stored = u64::MAX >> (LANES_U8 - to.len().min(outputs));
            let to = to.as_mut_ptr().cast::<i8>();
            // SAFETY: a masked store writes the mask's lanes alone, which the row has.
            unsafe {
                if STRIDE == 1 {
                    _mm512_mask_storeu_epi8(to, stored, all);
                } else {
                    _mm256_mask_storeu_epi8(to, stored as u32, _mm512_cvtepi16_epi8(all));
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn average(window: &Window2, divisor: Divisor, rescale: Rescale, x: &[u8], out: &mut [u8]) {
    rows::average(window, divisor, rescale, x, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn mean(x: &[u8], rescale: Rescale) -> u8 {
    rows::mean(x, rescale)
}
