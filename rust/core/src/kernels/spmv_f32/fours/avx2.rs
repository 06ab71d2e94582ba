//! AVX2: two fours of a row a vector.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use std::arch::x86_64::*;

use half::f16;

use super::super::scalar::walk;
use super::super::{Call, RunRows};
use crate::isa::Avx2;
use crate::weight::SparseRows;

/// The product of some fours of a row with `x`: pairs of them summed in two vectors, what is left over in half of one.
///
/// # Safety
/// `x` has every column named.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot<T: Copy + Default>(
    x: *const f32,
    columns: &[u8],
    values: &[[T; 4]],
    widen: impl Fn(&[[T; 4]; 2]) -> __m256,
) -> f32 {
    // SAFETY: the caller's promise.
    let load = |column: u8| unsafe { _mm_loadu_ps(x.add(usize::from(column) * 4)) };
    let pair = |sum: __m256, columns: [u8; 2], values: &[[T; 4]; 2]| {
        let x = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(load(columns[0])), load(columns[1]));
        _mm256_fmadd_ps(widen(values), x, sum)
    };
    let mut sums = [_mm256_setzero_ps(); 2];
    let ((fours, columns), (four_values, values)) = (columns.as_chunks::<4>(), values.as_chunks::<4>());
    for (&[a, b, c, d], values) in fours.iter().zip(four_values) {
        let [low, high] = values.as_chunks::<2>().0 else { unreachable!("four are two pairs") };
        sums = [pair(sums[0], [a, b], low), pair(sums[1], [c, d], high)];
    }
    let ((pairs, columns), (pair_values, values)) = (columns.as_chunks::<2>(), values.as_chunks::<2>());
    for (&columns, values) in pairs.iter().zip(pair_values) {
        sums[0] = pair(sums[0], columns, values);
    }
    let sum = _mm256_add_ps(sums[0], sums[1]);
    let mut sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    if let ([column], [values]) = (columns, values) {
        let values = _mm256_castps256_ps128(widen(&[*values, [T::default(); 4]]));
        sum = _mm_fmadd_ps(values, load(*column), sum);
    }
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
}

macro_rules! tier {
    ($($t:ty, $run:ident, $get:ident, $widen:expr;)+) => {$(
        /// # Safety
        /// What [`Kernel`](super::super::Kernel) asks.
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $run(call: &Call<'_, SparseRows<'_, [$t; 4]>>) {
            // SAFETY: the caller's promise; `sparse_starts` has checked the columns; a pair is eight values.
            unsafe { walk::<4, _>(call, |x, columns, values| dot(x, columns, values, $widen)) }
        }

        pub(super) fn $get() -> Option<RunRows<[$t; 4]>> {
            Avx2::detect().map(|_| $run as RunRows<[$t; 4]>)
        }
    )+};
}

tier! {
    f32, run_f32, get_f32, |values| _mm256_loadu_ps(values.as_ptr().cast());
    f16, run_f16, get_f16, |values| _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast()));
    i8, run_i8, get_i8, |values| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(values.as_ptr().cast())));
}
