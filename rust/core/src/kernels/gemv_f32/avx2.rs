//! 256-bit blocks: a tile is two vectors of rows, and elements of `x` are broadcast.

#![allow(unsafe_code, reason = "vector loads and stores through a part's raw pointers")]

use super::{Blocks, GROUP, Gemv, Part, Run, Sums, walk};
use crate::isa::Avx2;
use crate::kernels::strip::TILE;
use half::f16;
use std::arch::x86_64::*;

const LANES: usize = 8;

/// Bytes by which weights are fetched into the cache before they are used.
const AHEAD: usize = 1024;

/// A weight's type.
trait Weight: Copy + 'static {
    /// Eight weights.
    ///
    /// # Safety
    /// They are readable, and the processor has what [`Avx2`] proves.
    unsafe fn load(at: *const Self) -> __m256;
}

impl Weight for f32 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(at) }
    }
}

impl Weight for f16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(at: *const f16) -> __m256 {
        // SAFETY: the caller's.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

#[allow(private_bounds, reason = "the weight types are those of the tables")]
pub(super) fn get<W: Weight>() -> Option<Run<W>> {
    Avx2::detect().map(|_| run as Run<W>)
}

/// # Safety
/// As for [`Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<W: Weight>(g: &Gemv<'_, W>) {
    let blocks: Blocks<W> = const {
        &[
            &[(4, block::<W, 1, 4>), (1, block::<W, 1, 1>)],
            &[(2, block::<W, 2, 2>), (1, block::<W, 2, 1>)],
            &[(2, block::<W, 3, 2>), (1, block::<W, 3, 1>)],
            &[(1, block::<W, 4, 1>)],
        ]
    };
    // SAFETY: the caller's; it holds the token, which `get` found.
    unsafe { walk(g, blocks, GROUP) }
}

/// `T` tiles by `N` vectors.
///
/// # Safety
/// As for [`walk`]: the part's pointers are valid for its depth, `T` tiles and `N` vectors.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn block<W: Weight, const N: usize, const T: usize>(part: &Part<W>, sums: &mut [Sums], t: usize) {
    let mut sum = [[[_mm256_setzero_ps(); 2]; T]; N];
    for k in 0..part.depth {
        let mut xs = [_mm256_setzero_ps(); N];
        for (v, x) in xs.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *x = _mm256_set1_ps(unsafe { *part.x.add(v * part.x_stride + k) });
        }
        for t in 0..T {
            let at = part.weights.wrapping_add(t * part.tile_stride + k * TILE);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_byte_add(AHEAD).cast());
            for half in 0..2 {
                // SAFETY: the caller's.
                let w = unsafe { W::load(at.add(half * LANES)) };
                for (sum, x) in sum.iter_mut().zip(xs) {
                    sum[t][half] = _mm256_fmadd_ps(w, x, sum[t][half]);
                }
            }
        }
    }
    for (sums, sum) in sums.iter_mut().zip(sum) {
        for (total, sum) in sums[t..].as_flattened_mut().chunks_exact_mut(LANES).zip(sum.as_flattened()) {
            // SAFETY: the chunk is one vector.
            unsafe {
                let before = _mm256_loadu_ps(total.as_ptr());
                _mm256_storeu_ps(total.as_mut_ptr(), _mm256_add_ps(before, *sum));
            }
        }
    }
}
