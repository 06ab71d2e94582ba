//! AVX-512 VBMI and VNNI: a window of 256 activations is a table in four registers, looked up 64 columns at a time.
//!
//! `vpermi2b` picks from two registers by the low seven bits of a column; the eighth chooses between two such picks. What
//! is picked meets its weights in `vpdpbusd`, whose lanes are the rows of a tile.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::Kernel;
use super::Packed;
use crate::isa::Avx512Vnni;
use crate::kernels::lanes::GROUP;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows, store_tile};
use crate::weight::TILE;

/// Columns of a window: what two look-ups reach.
const WINDOW: usize = 256;

/// Windows start on a register of `x`.
const ROUND: usize = 64;

/// How far ahead of its use a step's lines are asked for: the time of a few lines from the last-level cache.
const AHEAD: usize = 24;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| Kernel::Packed { pack: |weight| Packed::new(weight, WINDOW, ROUND), run })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &RowsI8<'_, &Packed>) {
    by_rows!(s,
        8 => |s, i| vectors::<8>(s, i),
        4 => |s, i| vectors::<4>(s, i),
        2 => |s, i| vectors::<2>(s, i),
        1 => |s, i| vectors::<1>(s, i)
    );
}

/// Vectors `i..i + N`.
///
/// # Safety
/// As [`Kernel`]; there are so many vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn vectors<const N: usize>(s: &RowsI8<'_, &Packed>, i: usize) {
    let mut short = [[0; WINDOW]; N];
    // SAFETY: the call has the vectors, each of `k` bytes.
    let x = unsafe {
        let mut x: [_; N] = std::array::from_fn(|j| s.x.add((i + j) * s.x_stride));
        s.weight.lengthen(&mut x, &mut short);
        x
    };
    for r0 in s.rows().step_by(GROUP * TILE) {
        // SAFETY: windows lie within the vectors.
        let sums = s.weight.group(r0 / (GROUP * TILE), |t| unsafe { tile(s.weight, t, x) });
        for (j, sums) in sums.iter().enumerate() {
            for (r0, sums) in (r0..s.rows.1).step_by(TILE).zip(sums) {
                // SAFETY: the caller's.
                unsafe { store_tile(s, i + j, r0, sums) };
            }
        }
    }
}

/// Sums of `N` vectors over one tile.
///
/// # Safety
/// Every vector has the columns of every window of the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn tile<const N: usize>(weight: &Packed, tile: usize, x: [*const u8; N]) -> [[i32; TILE]; N] {
    let mut sums = [_mm512_setzero_si512(); N];
    for (first, lines) in weight.steps(tile) {
        let [columns, values] = lines;
        let ahead = std::ptr::from_ref(lines).wrapping_add(AHEAD);
        // SAFETY: 64 bytes each; asking is a hint, whatever the address.
        let (columns, values) = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast::<i8>().wrapping_add(64));
            (_mm512_loadu_si512(columns.as_ptr().cast()), _mm512_loadu_si512(values.as_ptr().cast()))
        };
        let upper = _mm512_movepi8_mask(columns);
        for (sum, x) in sums.iter_mut().zip(x) {
            // SAFETY: the caller's.
            let [a, b, c, d] =
                [0, 64, 128, 192].map(|at| unsafe { _mm512_loadu_si512(x.add(first + at).cast()) });
            let low = _mm512_permutex2var_epi8(a, columns, b);
            let high = _mm512_permutex2var_epi8(c, columns, d);
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_mask_blend_epi8(upper, low, high), values);
        }
    }
    // SAFETY: a register of 32-bit lanes is sixteen sums.
    sums.map(|sum| unsafe { std::mem::transmute::<__m512i, [i32; TILE]>(sum) })
}
