//! AVX2: eight lanes take their elements of `x` one by one. Rows in the lanes need no tails and no horizontal sums, and a
//! window as wide as a byte leaves few lanes resting.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use std::arch::x86_64::*;

use half::f16;

use super::{BATCH, Call, Kernel, Packed, RunPacked, packed_kernels};
use crate::isa::Avx2;
use crate::kernels::packed::take_eight;
use crate::weight::{Number, TILE};

const WINDOW: usize = 256;
/// A lane that rests takes the first element of the window, which is there.
const REST: u8 = 0;
/// Steps by which columns and float32 values are asked for ahead of their use, 5 KiB: further than the processor looks by
/// itself while it takes elements of `x` one by one. Narrower values come fast enough.
const AHEAD: usize = 64;

/// Sums of `S` vectors over one tile.
///
/// # Safety
/// Every vector has every column that a lane of the tile takes, and the first of every window.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const S: usize, T: Number>(
    weight: &Packed<T>,
    tile: usize,
    x: [*const f32; S],
    widen: impl Fn(&[T; 8]) -> __m256,
) -> [[f32; TILE]; S] {
    let mut sums = [[_mm256_setzero_ps(); 2]; S];
    let (firsts, columns, values) = weight.steps(tile);
    for ((&first, columns), values) in firsts.iter().zip(columns).zip(values) {
        if const { size_of::<T>() == size_of::<f32>() } {
            _mm_prefetch::<_MM_HINT_T0>(columns.as_ptr().wrapping_add(AHEAD * TILE).cast());
            _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(AHEAD * TILE).cast());
        }
        let (columns, values) = (columns.as_chunks::<8>().0, values.as_chunks::<8>().0);
        for half in 0..2 {
            let values = widen(&values[half]);
            let live = _mm256_cmp_ps::<_CMP_NEQ_UQ>(values, _mm256_setzero_ps());
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = x.wrapping_add(first as usize).cast();
                // SAFETY: the caller's promise.
                let x = _mm256_castsi256_ps(unsafe { take_eight(x, &columns[half]) });
                sums[half] = _mm256_fmadd_ps(values, _mm256_and_ps(live, x), sums[half]);
            }
        }
    }
    // SAFETY: two registers of floats are sixteen sums.
    sums.map(|sums| unsafe { std::mem::transmute::<[__m256; 2], [f32; TILE]>(sums) })
}

/// Vectors `s..s + S` over a tile; `S`.
///
/// # Safety
/// What [`Kernel`] asks; there are so many vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn vectors<const S: usize, T: Number>(
    call: &Call<'_, &Packed<T>>,
    t: usize,
    s: usize,
    widen: impl Fn(&[T; 8]) -> __m256,
) -> usize {
    // SAFETY: vectors of the call; the columns of non-zeros are below `k`, and so is the first of a window.
    let sums = unsafe { tile(call.weight, t, std::array::from_fn::<_, S, _>(|i| call.vector(s + i)), widen) };
    for (i, sums) in sums.iter().enumerate() {
        for (&r, &sum) in call.weight.rows(t).iter().zip(sums) {
            // SAFETY: a row of the tile.
            unsafe { call.finish(s + i, r as usize, sum) };
        }
    }
    S
}

/// # Safety
/// What [`Kernel`] asks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<T: Number>(call: &Call<'_, &Packed<T>>, widen: impl Fn(&[T; 8]) -> __m256 + Copy) {
    debug_assert!(call.weight.window() == WINDOW && (1..=BATCH).contains(&call.n));
    for t in call.tiles.0..call.tiles.1 {
        let mut s = 0;
        while s < call.n {
            // SAFETY: the caller's; so many vectors are left.
            s += unsafe {
                match call.n - s {
                    4.. => vectors::<4, T>(call, t, s, widen),
                    2.. => vectors::<2, T>(call, t, s, widen),
                    _ => vectors::<1, T>(call, t, s, widen),
                }
            };
        }
    }
}

packed_kernels!(Avx2, #[target_feature(enable = "avx2,fma,f16c")], {
    f32, run_f32, get_f32, |values| _mm256_loadu_ps(values.as_ptr());
    f16, run_f16, get_f16, |values| _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast()));
    i8, run_i8, get_i8, |values| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(values.as_ptr().cast())));
});
