//! AVX2: eight lanes take their fours of `x` one by one, and bytes meet in 16 bits in `vpmaddwd`. Rows in the lanes need no
//! tails and no horizontal sums.

#![allow(unsafe_code, reason = "vector loads through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, Packed, vectors};
use crate::isa::Avx2;
use crate::kernels::packed::take_eight;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::TILE;

pub(super) fn get() -> Option<Kernel> {
    Avx2::detect().map(|_| Kernel::Packed(run))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &RowsI8<'_, &Packed<[i8; 4]>>) {
    by_rows!(s,
        4 => |s, i| vectors::<4>(s, i, |t, x| tile(s.weight, t, x)),
        1 => |s, i| vectors::<1>(s, i, |t, x| tile(s.weight, t, x))
    );
}

/// Sums of `N` vectors over one tile.
///
/// # Safety
/// Every vector has the columns of every window of the tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile<const N: usize>(weight: &Packed<[i8; 4]>, tile: usize, x: [*const u8; N]) -> [[i32; TILE]; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    let (firsts, columns, values) = weight.steps(tile);
    for ((&first, columns), values) in firsts.iter().zip(columns).zip(values) {
        let (columns, values) = (columns.as_chunks::<8>().0, values.as_chunks::<8>().0);
        for half in 0..2 {
            // SAFETY: 32 bytes.
            let w = unsafe { _mm256_loadu_si256(values[half].as_ptr().cast()) };
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
            let odd = _mm256_srai_epi16::<8>(w);
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = x.wrapping_add(first as usize * 4).cast();
                // SAFETY: the caller's.
                let x = unsafe { take_eight(x, &columns[half]) };
                let low = _mm256_and_si256(x, _mm256_set1_epi16(0xff));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(low, even));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), odd));
            }
        }
    }
    // SAFETY: two registers of 32-bit lanes are sixteen sums.
    sums.map(|sums| unsafe { std::mem::transmute::<[__m256i; 2], [i32; TILE]>(sums) })
}
