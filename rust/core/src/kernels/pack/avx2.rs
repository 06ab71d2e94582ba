//! `pack`, AVX2: two halves of eight lanes, merged by masked loads and blends.

#![allow(unsafe_code, reason = "planes are read and rows written through the pointers of the call")]

use super::{Fill, LANES_F32, Run, scalar};
use crate::isa::Avx2;
use std::arch::x86_64::*;

pub(super) fn get_f32() -> Option<Run<f32>> {
    // SAFETY: an `Avx2` exists only where the CPU has the features `f32s` is compiled with; the rest is the caller's.
    Avx2::detect().map(|_| (|fill| unsafe { f32s(fill) }) as Run<f32>)
}

/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32s(fill: &Fill<'_, f32>) {
    if fill.taps.stride() != 1 {
        // SAFETY: the caller's.
        return unsafe { scalar::run::<f32, LANES_F32>(fill) };
    }
    let padding = _mm256_set1_ps(fill.padding);
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for v in 0..fill.taps.vectors {
        let pieces = fill.taps.pieces(fill.tap, v);
        for half in 0..2i32 {
            let mut out = fill.out.wrapping_add(v * LANES_F32 + 8 * half as usize);
            let mut x = fill.x.wrapping_add(8 * half as usize);
            for _ in 0..fill.channels {
                let mut row = padding;
                for piece in pieces {
                    let (first, end) =
                        (i32::from(piece.first) - 8 * half, i32::from(piece.first + piece.len) - 8 * half);
                    let mask = _mm256_andnot_si256(
                        _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane),
                        _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane),
                    );
                    // SAFETY: the mask's lanes are inside the plane; others are not read.
                    let part = unsafe { _mm256_maskload_ps(x.wrapping_offset(piece.src), mask) };
                    row = _mm256_blendv_ps(row, part, _mm256_castsi256_ps(mask));
                }
                // SAFETY: a row is whole vectors long.
                unsafe { _mm256_storeu_ps(out, row) };
                (x, out) = (x.wrapping_add(fill.pitch), out.wrapping_add(fill.out_stride));
            }
        }
    }
}
