//! 128-bit blocks: a tile is four vectors of rows, and elements of `x` are broadcast.

#![allow(unsafe_code, reason = "vector loads and stores through a part's raw pointers")]

use super::{Blocks, GROUP, Gemv, Part, Run, Sums, walk};
use crate::isa::Neon;
use crate::kernels::strip::TILE;
use half::f16;
use std::arch::aarch64::*;
use std::arch::asm;

const LANES: usize = 4;

/// Vectors of a tile.
const QUADS: usize = TILE / LANES;

/// Bytes by which weights are fetched into the cache before they are used.
const AHEAD: usize = 512;

/// A weight's type.
trait Weight: Copy + 'static {
    /// Four weights.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(at: *const Self) -> float32x4_t;
}

impl Weight for f32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const f32) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vld1q_f32(at) }
    }
}

impl Weight for f16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const f16) -> float32x4_t {
        // SAFETY: the caller's.
        let halves = unsafe { vld1_u16(at.cast()) };
        let floats;
        // The intrinsic, `vcvt_f32_f16`, is younger than the Rust this crate promises to build with.
        // SAFETY: the instruction is part of Advanced SIMD and computes on registers alone.
        unsafe {
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags));
        }
        floats
    }
}

#[allow(private_bounds, reason = "the weight types are those of the tables")]
pub(super) fn get<W: Weight>() -> Option<Run<W>> {
    Neon::detect().map(|_| run as Run<W>)
}

/// # Safety
/// As for [`Run`].
#[target_feature(enable = "neon")]
unsafe fn run<W: Weight>(g: &Gemv<'_, W>) {
    let blocks: Blocks<W> = const {
        &[
            &[(2, block::<W, 1, 2>), (1, block::<W, 1, 1>)],
            &[(2, block::<W, 2, 2>), (1, block::<W, 2, 1>)],
            &[(1, block::<W, 3, 1>)],
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
#[target_feature(enable = "neon")]
unsafe fn block<W: Weight, const N: usize, const T: usize>(part: &Part<W>, sums: &mut [Sums], t: usize) {
    let mut sum = [[[vdupq_n_f32(0.0); QUADS]; T]; N];
    for k in 0..part.depth {
        let mut xs = [0.0; N];
        for (v, x) in xs.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *x = unsafe { *part.x.add(v * part.x_stride + k) };
        }
        for t in 0..T {
            let at = part.weights.wrapping_add(t * part.tile_stride + k * TILE);
            let ahead = at.wrapping_byte_add(AHEAD);
            // SAFETY: a prefetch has no effect but on caches, wherever it points.
            unsafe {
                asm!("prfm pldl1strm, [{}]", in(reg) ahead, options(nostack, preserves_flags, readonly))
            };
            for quad in 0..QUADS {
                // SAFETY: the caller's.
                let w = unsafe { W::load(at.add(quad * LANES)) };
                for (sum, x) in sum.iter_mut().zip(xs) {
                    sum[t][quad] = vfmaq_n_f32(sum[t][quad], w, x);
                }
            }
        }
    }
    for (sums, sum) in sums.iter_mut().zip(sum) {
        for (total, sum) in sums[t..].as_flattened_mut().chunks_exact_mut(LANES).zip(sum.as_flattened()) {
            // SAFETY: the chunk is one vector.
            unsafe { vst1q_f32(total.as_mut_ptr(), vaddq_f32(vld1q_f32(total.as_ptr()), *sum)) };
        }
    }
}
