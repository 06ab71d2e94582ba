//! 512-bit blocks: a tile is one vector of rows, and elements of `x` are broadcast.

#![allow(unsafe_code, reason = "vector loads and stores through a part's raw pointers")]

use super::{Blocks, GROUP, Gemv, Part, Run, Sums, walk};
use crate::isa::Avx512;
use crate::kernels::strip::TILE;
use half::f16;
use std::arch::x86_64::*;

/// Bytes by which weights are fetched into the cache before they are used.
const AHEAD: usize = 1024;

/// Bytes of a weight that no cache is taken to hold.
const FAR: usize = 8 << 20;

/// A weight's type.
trait Weight: Copy + 'static {
    /// Sixteen weights.
    ///
    /// # Safety
    /// They are readable, and the processor has what [`Avx512`] proves.
    unsafe fn load(at: *const Self) -> __m512;
}

impl Weight for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
    unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Weight for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
    unsafe fn load(at: *const f16) -> __m512 {
        // SAFETY: the caller's.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
    }
}

#[allow(private_bounds, reason = "the weight types are those of the tables")]
pub(super) fn get<W: Weight>() -> Option<Run<W>> {
    Avx512::detect().map(|_| run as Run<W>)
}

/// # Safety
/// As for [`Run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn run<W: Weight>(g: &Gemv<'_, W>) {
    let blocks: Blocks<W> = const {
        &[
            &[(8, block::<W, 1, 8>), (4, block::<W, 1, 4>), (2, block::<W, 1, 2>), (1, block::<W, 1, 1>)],
            &[(8, block::<W, 2, 8>), (4, block::<W, 2, 4>), (2, block::<W, 2, 2>), (1, block::<W, 2, 1>)],
            &[(4, block::<W, 3, 4>), (2, block::<W, 3, 2>), (1, block::<W, 3, 1>)],
            &[(4, block::<W, 4, 4>), (2, block::<W, 4, 2>), (1, block::<W, 4, 1>)],
            &[(4, block::<W, 5, 4>), (2, block::<W, 5, 2>), (1, block::<W, 5, 1>)],
            &[(4, block::<W, 6, 4>), (2, block::<W, 6, 2>), (1, block::<W, 6, 1>)],
            &[(3, block::<W, 7, 3>), (2, block::<W, 7, 2>), (1, block::<W, 7, 1>)],
            &[(3, block::<W, 8, 3>), (2, block::<W, 8, 2>), (1, block::<W, 8, 1>)],
        ]
    };
    // Tiles that are read side by side lie in different pages of memory, of which it serves few at a time.
    let most = if size_of_val(g.weight.values()) > FAR { 4 } else { GROUP };
    // SAFETY: the caller's; it holds the token, which `get` found.
    unsafe { walk(g, blocks, most) }
}

/// `T` tiles by `N` vectors.
///
/// # Safety
/// As for [`walk`]: the part's pointers are valid for its depth, `T` tiles and `N` vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn block<W: Weight, const N: usize, const T: usize>(part: &Part<W>, sums: &mut [Sums], t: usize) {
    let mut sum = [[_mm512_setzero_ps(); T]; N];
    for k in 0..part.depth {
        let mut weights = [_mm512_setzero_ps(); T];
        for (t, w) in weights.iter_mut().enumerate() {
            let at = part.weights.wrapping_add(t * part.tile_stride + k * TILE);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_byte_add(AHEAD).cast());
            // SAFETY: the caller's.
            *w = unsafe { W::load(at) };
        }
        for (v, sum) in sum.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let x = _mm512_set1_ps(unsafe { *part.x.add(v * part.x_stride + k) });
            for (sum, w) in sum.iter_mut().zip(weights) {
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
    }
    for (sums, sum) in sums.iter_mut().zip(sum) {
        for (total, sum) in sums[t..].iter_mut().zip(sum) {
            // SAFETY: a tile's sums are one vector.
            unsafe {
                let before = _mm512_loadu_ps(total.as_ptr());
                _mm512_storeu_ps(total.as_mut_ptr(), _mm512_add_ps(before, sum));
            }
        }
    }
}
