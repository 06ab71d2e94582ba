//! AVX2: four fours of a row at a time, in 16 bits for `vpmaddwd`.

#![allow(unsafe_code, reason = "vector loads through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, dot_each, walk};
use crate::isa::Avx2;
use crate::kernels::strip_i8::rows::RowsI8;
use crate::weight::SparseRows;

pub(super) fn get() -> Option<Kernel> {
    Avx2::detect().map(|_| Kernel::Rows(run))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &RowsI8<'_, SparseRows<'_, [i8; 4]>>) {
    // SAFETY: the caller's; `sparse_starts` has checked the columns.
    unsafe { walk(s, |x, columns, values| dot(x, columns, values)) };
}

/// The product of some fours of a row with `x`.
///
/// # Safety
/// `x` has every column named.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn dot(x: *const [u8; 4], columns: &[u8], values: &[[i8; 4]]) -> i32 {
    let ((some, few), (some_values, few_values)) = (columns.as_chunks::<4>(), values.as_chunks::<4>());
    let mut sum = _mm256_setzero_si256();
    for (columns, values) in some.iter().zip(some_values) {
        // SAFETY: the caller's; sixteen weights fill a register.
        let (x, w) = unsafe {
            let [a, b, c, d] =
                columns.map(|column| x.add(usize::from(column)).cast::<i32>().read_unaligned());
            (_mm_setr_epi32(a, b, c, d), _mm_loadu_si128(values.as_ptr().cast()))
        };
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(x), _mm256_cvtepi8_epi16(w)));
    }
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    let sum = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<1>(sum)));
    // SAFETY: the caller's.
    sum + unsafe { dot_each(x, few, few_values) }
}
