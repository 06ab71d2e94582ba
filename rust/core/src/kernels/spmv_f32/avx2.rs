//! AVX2: two gathers a step. Rows in the lanes need no tails and no horizontal sums, and a window as wide as a column's
//! seven bits leaves few lanes resting.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use std::arch::x86_64::*;

use half::f16;

use super::{BATCH, Call, Kernel, Packed, RunPacked, packed_kernels};
use crate::isa::Avx2;
use crate::weight::{Number, TILE};

const WINDOW: usize = 128;

/// Sums of one vector over one tile.
///
/// # Safety
/// `x` has every column that a lane of the tile takes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<T: Number>(
    weight: &Packed<T>,
    tile: usize,
    x: *const f32,
    widen: impl Fn(&[T; 8]) -> __m256,
) -> [f32; TILE] {
    let mut sums = [_mm256_setzero_ps(); 2];
    let (firsts, columns, values) = weight.steps(tile);
    for ((&first, columns), values) in firsts.iter().zip(columns).zip(values) {
        let (columns, values) = (columns.as_chunks::<8>().0, values.as_chunks::<8>().0);
        for (half, sum) in sums.iter_mut().enumerate() {
            // SAFETY: eight bytes.
            let columns = unsafe { _mm_loadl_epi64(columns[half].as_ptr().cast()) };
            // A lane that rests has a negative column, and a gather skips lanes whose mask is not.
            let columns = _mm256_cvtepi8_epi32(columns);
            let live = _mm256_castsi256_ps(_mm256_andnot_si256(columns, _mm256_set1_epi32(i32::MIN)));
            // SAFETY: the caller's promise, for the lanes that are live.
            let x = unsafe {
                _mm256_mask_i32gather_ps::<4>(_mm256_setzero_ps(), x.add(first as usize), columns, live)
            };
            *sum = _mm256_fmadd_ps(widen(&values[half]), x, *sum);
        }
    }
    let mut to = [0.0; TILE];
    for (sum, to) in sums.into_iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: eight floats.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) };
    }
    to
}

/// # Safety
/// What [`Kernel`] asks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<T: Number>(call: &Call<'_, &Packed<T>>, widen: impl Fn(&[T; 8]) -> __m256 + Copy) {
    let weight = call.weight;
    debug_assert!(weight.window() == WINDOW && (1..=BATCH).contains(&call.n));
    for t in call.tiles.0..call.tiles.1 {
        for s in 0..call.n {
            // SAFETY: the columns of non-zeros are below `k`; `s` is a vector of the call.
            let sums = unsafe { tile(weight, t, call.vector(s), widen) };
            for (&r, sum) in weight.rows(t).iter().zip(sums) {
                // SAFETY: a row of the tile.
                unsafe { call.finish(s, r as usize, sum) };
            }
        }
    }
}

packed_kernels!(Avx2, #[target_feature(enable = "avx2,fma,f16c")], {
    f32, run_f32, get_f32, |values| _mm256_loadu_ps(values.as_ptr());
    f16, run_f16, get_f16, |values| _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast()));
    i8, run_i8, get_i8, |values| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(values.as_ptr().cast())));
});
