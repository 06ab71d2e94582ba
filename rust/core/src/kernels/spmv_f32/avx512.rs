//! AVX-512: a step's window of 64 elements of `x` lies in four vectors, in which every lane looks its element up.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use std::arch::x86_64::*;

use half::f16;

use super::{BATCH, Call, Kernel, Packed, RunPacked, Sums, packed_kernels};
use crate::isa::Avx512;
use crate::weight::{Number, TILE};

const WINDOW: usize = 64;
/// A bit that no column has.
const REST: u8 = 0x80;

/// Sums of `S` vectors over one tile. Even and odd steps are summed apart, to hide the latency of the addition.
///
/// # Safety
/// Every vector has the columns of every window of the tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile<const S: usize, T: Number>(
    weight: &Packed<T>,
    tile: usize,
    x: [*const f32; S],
    widen: impl Fn(&[T; TILE]) -> __m512,
) -> [[f32; TILE]; S] {
    let mut sums = [[_mm512_setzero_ps(); S]; 2];
    let step = |sums: &mut [__m512; S], first: u32, columns: &[u8; TILE], values: &[T; TILE]| {
        // SAFETY: sixteen bytes.
        let columns = unsafe { _mm_loadu_si128(columns.as_ptr().cast()) };
        let live = !_mm_movepi8_mask(columns);
        let columns = _mm512_cvtepu8_epi32(columns);
        let upper = _mm512_test_epi32_mask(columns, _mm512_set1_epi32(32));
        let values = widen(values);
        for (sum, x) in sums.iter_mut().zip(x) {
            // SAFETY: the caller's promise.
            let [a, b, c, d] = [0, 16, 32, 48].map(|i| unsafe { _mm512_loadu_ps(x.add(first as usize + i)) });
            // A look-up takes the low five bits of a column.
            let low = _mm512_permutex2var_ps(a, columns, b);
            let high = _mm512_permutex2var_ps(c, columns, d);
            *sum = _mm512_mask3_fmadd_ps(values, _mm512_mask_blend_ps(upper, low, high), *sum, live);
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
    std::array::from_fn(|s| {
        let mut to = [0.0; TILE];
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_add_ps(sums[0][s], sums[1][s])) };
        to
    })
}

/// # Safety
/// What [`Kernel`] asks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn run<T: Number>(call: &Call<'_, &Packed<T>>, widen: impl Fn(&[T; TILE]) -> __m512 + Copy) {
    let (weight, n) = (call.weight, call.n);
    debug_assert!(weight.window() == WINDOW && (1..=BATCH).contains(&n));
    // A vector shorter than a window is read from a copy that is not.
    let mut short = [[0.0; WINDOW]; BATCH];
    let mut x = [std::ptr::null(); BATCH];
    for s in 0..n {
        // SAFETY: `s` is a vector of the call.
        x[s] = unsafe { call.vector(s) };
        if weight.k() < WINDOW {
            // SAFETY: a vector has `k` elements.
            short[s][..weight.k()].copy_from_slice(unsafe { std::slice::from_raw_parts(x[s], weight.k()) });
            x[s] = short[s].as_ptr();
        }
    }
    for t in call.tiles.0..call.tiles.1 {
        let mut sums: Sums = [[0.0; TILE]; BATCH];
        let mut s = 0;
        while s < n {
            // SAFETY: windows lie within `k` columns, or within the copies, which have a window's.
            unsafe {
                match n - s {
                    4.. => sums[s..s + 4].copy_from_slice(&tile(
                        weight,
                        t,
                        [x[s], x[s + 1], x[s + 2], x[s + 3]],
                        widen,
                    )),
                    2.. => sums[s..s + 2].copy_from_slice(&tile(weight, t, [x[s], x[s + 1]], widen)),
                    _ => sums[s..=s].copy_from_slice(&tile(weight, t, [x[s]], widen)),
                }
            }
            s += match n - s {
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
        }
        for (s, sums) in sums[..n].iter().enumerate() {
            for (&r, &sum) in weight.rows(t).iter().zip(sums) {
                // SAFETY: a row of the tile.
                unsafe { call.finish(s, r as usize, sum) };
            }
        }
    }
}

packed_kernels!(Avx512, #[target_feature(enable = "avx512f,avx512bw,avx512vl")], {
    f32, run_f32, get_f32, |values| _mm512_loadu_ps(values.as_ptr());
    f16, run_f16, get_f16, |values| _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast()));
    i8, run_i8, get_i8, |values| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast())));
});
