//! float32 or float16 weights times a few float32 vectors: `out[v][r] = epilogue(Σ_k W[r][k] · x[v][k])`, `v < n ≤ 8`.
//!
//! So few vectors leave the weights to be streamed once, at the speed of memory: rows lie in the lanes, sixteen to a tile,
//! and each weight that is loaded serves every vector. A tier brings *register blocks*, some tiles by some vectors, and
//! `walk` lays them over the product.
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

/// Most vectors of one call.
pub const VECTORS: usize = 8;

/// One call: some rows of a weight times a few vectors.
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
    /// Vectors, `1..=`[`VECTORS`].
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

/// Tiles whose sums are kept at once.
const GROUP: usize = 8;

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

/// Lays a tier's blocks over a product.
///
/// # Safety
/// As for [`Run`], for the tier the blocks are written for.
unsafe fn walk<T>(g: &Gemv<'_, T>, blocks: Blocks<T>) {
    let k = g.weight.k();
    // As few passes over a group's weights as the blocks allow, of as equal numbers of vectors.
    let passes = g.n.div_ceil(blocks.len());
    for start in (g.rows.0..g.rows.1).step_by(GROUP * TILE) {
        let end = g.rows.1.min(start + GROUP * TILE);
        let tiles = (end - start).div_ceil(TILE);
        let weights = &g.weight.values()[start * k..][..tiles * TILE * k];
        let mut sums = [[[0.0; TILE]; GROUP]; VECTORS];
        for k0 in (0..k).step_by(DEPTH) {
            for pass in 0..passes {
                let (from, to) = (pass * g.n / passes, (pass + 1) * g.n / passes);
                let mut t = 0;
                while t < tiles {
                    let &(width, block) = blocks[to - from - 1]
                        .iter()
                        .find(|&&(width, _)| width <= tiles - t)
                        .expect("blocks go down to a single tile");
                    let part = Part {
                        weights: weights[(t * k + k0) * TILE..].as_ptr(),
                        tile_stride: k * TILE,
                        x: g.x.wrapping_add(from * g.x_stride + k0),
                        x_stride: g.x_stride,
                        depth: DEPTH.min(k - k0),
                    };
                    // SAFETY: the caller's; `width` tiles from `t` are in the group, whose weights are all there, and
                    // `depth` elements from `k0` are in each vector.
                    unsafe { block(&part, &mut sums[from..to], t) };
                    t += width;
                }
            }
        }
        for (v, sums) in sums.iter().enumerate().take(g.n) {
            for (r, &sum) in (start..end).zip(sums.as_flattened()) {
                let at = v * g.out_stride + r;
                let mut y = sum * g.epilogue.scale.map_or(1.0, |scale| scale[r])
                    + g.epilogue.bias.map_or(0.0, |bias| bias[r]);
                if !g.residual.is_null() {
                    // SAFETY: a residual has the products' shape.
                    y += unsafe { *g.residual.add(at) };
                }
                // Comparisons that a NaN fails, so that it stays.
                let [lo, hi] = g.epilogue.clamp;
                y = if y < lo { lo } else { y };
                y = if y > hi { hi } else { y };
                // SAFETY: row `r` of product `v` is the caller's to write.
                unsafe { *g.out.add(at) = y };
            }
        }
    }
}

#[cfg(test)]
mod tests;
