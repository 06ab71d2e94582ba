//! AVX-512 VNNI: a window of 64 fours of activations is a table in four registers, looked up sixteen fours at a time.
//!
//! `vpermi2d` picks from two registers by the low five bits of a column; the sixth chooses between two such picks. What is
//! picked meets its weights in `vpdpbusd`, whose lanes are the rows of a tile.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, Packed, vectors};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::TILE;

/// How far ahead of its use a step's weights are asked for, in steps: the time of a few lines from the last-level cache.
const AHEAD: usize = 24;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| Kernel::Packed(run))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &RowsI8<'_, &Packed<[i8; 4]>>) {
    by_rows!(s,
        4 => |s, i| vectors::<4>(s, i, |t, x| tile(s.weight, t, x)),
        2 => |s, i| vectors::<2>(s, i, |t, x| tile(s.weight, t, x)),
        1 => |s, i| vectors::<1>(s, i, |t, x| tile(s.weight, t, x))
    );
}

/// Sums of `N` vectors over one tile. Even and odd steps are summed apart, to hide the latency of the product.
///
/// # Safety
/// Every vector has the columns of every window of the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn tile<const N: usize>(weight: &Packed<[i8; 4]>, tile: usize, x: [*const u8; N]) -> [[i32; TILE]; N] {
    let mut sums = [[_mm512_setzero_si512(); N]; 2];
    let step = |sums: &mut [__m512i; N], first: u32, columns: &[u8; TILE], values: &[[i8; 4]; TILE]| {
        // SAFETY: sixteen bytes, and 64; asking is a hint, whatever the address.
        let (columns, values) = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(AHEAD * TILE).cast());
            (_mm_loadu_si128(columns.as_ptr().cast()), _mm512_loadu_si512(values.as_ptr().cast()))
        };
        // A lane that rests looks up what is multiplied by zero.
        let columns = _mm512_cvtepu8_epi32(columns);
        let upper = _mm512_test_epi32_mask(columns, _mm512_set1_epi32(32));
        for (sum, x) in sums.iter_mut().zip(x) {
            let x = x.wrapping_add(first as usize * 4);
            // SAFETY: the caller's.
            let [a, b, c, d] = [0, 64, 128, 192].map(|at| unsafe { _mm512_loadu_si512(x.add(at).cast()) });
            let low = _mm512_permutex2var_epi32(a, columns, b);
            let high = _mm512_permutex2var_epi32(c, columns, d);
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_mask_blend_epi32(upper, low, high), values);
        }
    };
    let (firsts, columns, values) = weight.steps(tile);
    let ((two_firsts, first), (two_columns, column), (two_values, value)) =
        (firsts.as_chunks::<2>(), columns.as_chunks::<2>(), values.as_chunks::<2>());
    for ((firsts, columns), values) in two_firsts.iter().zip(two_columns).zip(two_values) {
        for i in 0..2 {
            step(&mut sums[i], firsts[i], &columns[i], &values[i]);
        }
    }
    if let ([first], [column], [value]) = (first, column, value) {
        step(&mut sums[0], *first, column, value);
    }
    std::array::from_fn(|j| {
        let sum = _mm512_add_epi32(sums[0][j], sums[1][j]);
        // SAFETY: a register of 32-bit lanes is sixteen sums.
        unsafe { std::mem::transmute::<__m512i, [i32; TILE]>(sum) }
    })
}
