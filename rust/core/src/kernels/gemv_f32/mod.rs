//! float32 or float16 weights times float32 vectors: `out[v][r] = epilogue(Σ_k W[r][k] · x[v][k])`, `v < n`.
//!
//! Vectors and products lie one after the other, as tokens do and the rows of a batch. Rows of the weight lie in the
//! lanes, sixteen to a tile, and each weight that is loaded serves up to [`BATCH`] vectors: of so few the weights are
//! streamed once, at the speed of memory; of many a group of tiles stays in the second-level cache meanwhile. A tier
//! brings *register blocks*, some tiles by some vectors, and `walk` lays them over the product.
//!
//! A sum goes through `k` in order within a block of `DEPTH`, and blocks are added in order: its bits depend neither on
//! the number of vectors nor on how rows are cut. Unlike a strip kernel, these touch nothing past a vector's end.

#![allow(
    unsafe_code,
    reason = "the loop nest reads and writes through raw pointers and calls register blocks"
)]

use super::Impl;
use super::strip::{Epilogue, TILE};
use crate::isa::Tier;
use crate::weight::Tiles;
use half::f16;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Most vectors that a weight serves once it is loaded.
pub const BATCH: usize = 8;

/// One call: some rows of a weight times some vectors.
#[derive(Clone, Copy, Debug)]
pub struct Gemv<'a, T> {
    /// The weight, `(m, k)`.
    pub weight: Tiles<'a, T>,
    /// Rows to compute; starts at a multiple of [`TILE`] and ends at one or at the weight's last row.
    pub rows: (usize, usize),
    /// The first vector, `k` elements.
    pub x: *const f32,
    /// Elements from one vector to the next.
    pub x_stride: usize,
    /// Vectors.
    pub n: usize,
    /// The first vector's product, `m` elements (row 0, not `rows.0`).
    pub out: *mut f32,
    /// Elements from one product to the next.
    pub out_stride: usize,
    /// An addend of the products' shape, `out_stride` apart, or null. May be `out` itself.
    pub residual: *const f32,
    /// What is done to a finished sum; `scale` and `bias` are indexed by row.
    pub epilogue: Epilogue<'a>,
}

/// Computes one [`Gemv`].
///
/// # Safety
/// Whoever calls it holds the tier's token; the pointers are valid for the rows, depth and vectors the [`Gemv`] names; and
/// nothing else touches those rows of `out` meanwhile.
pub type Run<T> = for<'a> unsafe fn(&Gemv<'a, T>);

/// Every implementation for float32 weights, best first.
pub static TABLE_F32: &[Impl<Run<f32>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

/// Every implementation for float16 weights, best first.
pub static TABLE_F16: &[Impl<Run<f16>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

/// Depth that is summed in one go: that of a strip kernel's block, so that long sums are as accurate here as there.
const DEPTH: usize = 256;

/// Most tiles whose sums are kept at once.
const GROUP: usize = 8;

/// Fewest tiles of a group of a deep weight, so that each element of a vector serves as many.
const LEAST: usize = 6;

/// Bytes of weights that stay in the second-level cache while all vectors pass.
pub const NEAR: usize = 512 * 1024;

/// The sums of one vector with a group of tiles.
type Sums = [[f32; TILE]; GROUP];

/// Weights and vectors of one register block, and the depth it sums.
struct Part<T> {
    /// Weights of the first tile, [`TILE`] for each `k`.
    weights: *const T,
    /// Elements from one tile to the next.
    tile_stride: usize,
    /// The first vector.
    x: *const f32,
    /// Elements from one vector to the next.
    x_stride: usize,
    depth: usize,
}

/// Adds the product of some tiles, the first of them `t` of the group, and some vectors, as many as `sums` are given.
type Block<T> = unsafe fn(&Part<T>, sums: &mut [Sums], t: usize);

/// The register blocks of a tier: for one vector, two, and so on, a list of (tiles, block), most tiles first and down to a
/// single one.
type Blocks<T> = &'static [&'static [(usize, Block<T>)]];

/// Lays a tier's blocks of at most so many tiles over a product. Inlined, so that what is done to sums is compiled for the tier as well.
///
/// # Safety
/// As for [`Run`], for the tier the blocks are written for.
#[inline(always)]
unsafe fn walk<T>(g: &Gemv<'_, T>, blocks: Blocks<T>, most: usize) {
    let k = g.weight.k();
    let group =
        if g.n <= BATCH { GROUP } else { (NEAR / (k.max(1) * TILE * size_of::<T>())).clamp(LEAST, GROUP) };
    let batches = g.n.div_ceil(BATCH);
    for start in (g.rows.0..g.rows.1).step_by(group * TILE) {
        let end = g.rows.1.min(start + group * TILE);
        let tiles = (end - start).div_ceil(TILE);
        let weights = &g.weight.values()[start * k..][..tiles * TILE * k];
        for batch in 0..batches {
            let (first, last) = (batch * g.n / batches, (batch + 1) * g.n / batches);
            // As few passes over a block of the weights as there are blocks for, of as equal numbers of vectors.
            let n = last - first;
            let passes = n.div_ceil(blocks.len());
            let mut sums = [[[0.0; TILE]; GROUP]; BATCH];
            for k0 in (0..k).step_by(DEPTH) {
                for pass in 0..passes {
                    let (from, to) = (pass * n / passes, (pass + 1) * n / passes);
                    let mut t = 0;
                    while t < tiles {
                        let &(width, block) = blocks[to - from - 1]
                            .iter()
                            .find(|&&(width, _)| width <= most.min(tiles - t))
                            .expect("blocks go down to a single tile");
                        let part = Part {
                            weights: weights[(t * k + k0) * TILE..].as_ptr(),
                            tile_stride: k * TILE,
                            x: g.x.wrapping_add((first + from) * g.x_stride + k0),
                            x_stride: g.x_stride,
                            depth: DEPTH.min(k - k0),
                        };
                        // SAFETY: the caller's; `width` tiles from `t` are in the group, whose weights are all there,
                        // and `depth` elements from `k0` are in each vector.
                        unsafe { block(&part, &mut sums[from..to], t) };
                        t += width;
                    }
                }
            }
            for (v, sums) in (first..last).zip(&mut sums) {
                // SAFETY: the caller's; rows `start..end` of product `v` are its to write.
                unsafe { finish(g, v, (start, end), &mut sums.as_flattened_mut()[..end - start]) };
            }
        }
    }
}

/// Applies the epilogue to sums of vector `v` and stores them as rows `start..end` of its product.
///
/// # Safety
/// As for [`Run`]; there is a sum for each row.
#[inline(always)]
unsafe fn finish<T>(g: &Gemv<'_, T>, v: usize, (start, end): (usize, usize), sums: &mut [f32]) {
    if let Some(scale) = g.epilogue.scale {
        for (sum, scale) in sums.iter_mut().zip(&scale[start..end]) {
            *sum *= scale;
        }
    }
    if let Some(bias) = g.epilogue.bias {
        for (sum, bias) in sums.iter_mut().zip(&bias[start..end]) {
            *sum += bias;
        }
    }
    let at = v * g.out_stride + start;
    if !g.residual.is_null() {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a residual has the products' shape.
            *sum += unsafe { *g.residual.add(at + i) };
        }
    }
    let [lo, hi] = g.epilogue.clamp;
    for (i, &sum) in sums.iter().enumerate() {
        // Comparisons that a NaN fails, so that it stays.
        let y = if sum < lo { lo } else { sum };
        let y = if y > hi { hi } else { y };
        // SAFETY: the row is the caller's to write.
        unsafe { *g.out.add(at + i) = y };
    }
}

#[cfg(test)]
mod tests;
