//! float32 times float32, dense: `out[r][j] = epilogue(Σ_k W[r][k] · x[k][j])` over a strip of columns.
//!
//! A tier brings *register blocks*, a few rows by a few vectors of columns whose sums stay in registers for a whole block
//! of the depth; `walk` lays them over a strip. Columns past the last whole vector are computed the other way round
//! where that leaves fewer lanes idle: sixteen rows in the lanes, one column after another, turned in registers before
//! they are stored.
//!
//! A sum goes through `k` in order within a block of the depth, and blocks are added in order, whichever register block
//! computes it: its bits do not depend on how columns or rows are cut.
//!
//! A panel may as well be rows of an activation in place as a packed copy: the columns that come next are fetched while
//! the last rows of a weight pass over the present ones, so packing pays only where it gathers anyway. Columns are best
//! cut into strips of multiples of 48, which every tier's blocks divide, with what is left over in the last.

#![allow(unsafe_code, reason = "the loop nest calls register blocks, which take the strip's raw pointers")]

use super::Impl;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::Simd;
use super::strip::{Strip, StripKernel, TILE};
use crate::isa::Tier;
use crate::weight::Tiles;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Computes one [`Strip`]; what the caller vouches for is said at [`StripKernel`].
pub type Run = for<'a> unsafe fn(&Strip<'a, Tiles<'a, f32>>);

/// Every implementation, best first.
pub static TABLE: &[Impl<StripKernel<Run>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

/// Computes one register block, whose first element is row `r`, column `j` of the strip.
///
/// Rows from the range's end on are not stored; columns are, up to the next multiple of [`LANES`](super::strip::LANES).
type Block = for<'a> unsafe fn(&Strip<'a, Tiles<'a, f32>>, r: usize, j: usize, ahead: Ahead);

/// What a block is to fetch into the cache while it computes: one element at each step of the depth, whose line soon
/// will be read. It may lie outside of every allocation, as nothing but a prefetch may use it.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const f32,
    step: usize,
}

/// Most vectors of columns in a register block.
const WIDE: usize = 3;

/// Register blocks one below the other, each with the rows it has.
type Cover = &'static [(usize, Block)];

/// Blocks that cover a tile with the last vectors of a strip and the columns after them.
struct Seam {
    /// Vectors, two or three.
    vectors: usize,
    /// Most columns more.
    columns: usize,
    cover: Cover,
}

impl Seam {
    /// Whether [`next_width`] cuts `whole` vectors so that these blocks take the last.
    fn fits(&self, whole: usize) -> bool {
        whole >= self.vectors && (whole % WIDE == self.vectors % WIDE || (self.vectors == 2 && whole > WIDE))
    }
}

/// Vectors of the next register blocks where so many are left, the last of them for a seam if there is one.
fn next_width(left: usize, seam: Option<&Seam>) -> usize {
    match left {
        // Two and two are better than three and one: a single one keeps few sums in flight.
        4 => 2,
        // Three times two ends with two, as that seam has.
        6 if seam.is_some_and(|seam| seam.vectors == 2) => 2,
        _ => left.min(WIDE),
    }
}

/// The register blocks of a tier.
struct Blocks {
    /// Columns in a vector.
    lanes: usize,
    /// With columns in the lanes: blocks of one, two and three vectors (none where the registers do not suffice) that
    /// cover a tile, and others that cover half of one.
    wide: [[Cover; 2]; WIDE],
    /// With columns in the lanes, and a few single columns more: fewest first, and all of as many vectors.
    seam: &'static [Seam],
    /// With rows in the lanes: most columns, tiles of rows, and the block; fewest columns first and, among equals, most
    /// tiles first, down to a single one.
    tall: &'static [(usize, usize, Block)],
}

/// Rows that all columns of a strip pass over before the next, unless the panel is near: their weights, 128 KiB for a
/// block of the depth of 256, stay in the second-level cache meanwhile.
const CHUNK: usize = 128;

/// Elements of a panel of which every column stays in the first-level cache while all rows pass over it: 16 KiB, half of the
/// smallest. A chunk is then one tile of rows, which has few rows of the output, each on a page of its own, in turn.
const NEAR: usize = 4 << 10;

/// Lays a tier's blocks over a strip.
///
/// Within a chunk of rows the columns of a block are the outer loop: `kb` rows of them stay in the first-level cache
/// while the weights, fewer bytes for the same work, pass by.
///
/// # Safety
/// As for [`StripKernel`], for the tier the blocks are written for.
unsafe fn walk(s: &Strip<'_, Tiles<'_, f32>>, blocks: &Blocks) {
    let (whole, rest) = (s.n / blocks.lanes, s.n % blocks.lanes);
    let widest = blocks.wide.iter().filter(|covers| !covers[0].is_empty()).count();
    // What takes the columns after the last whole vector: a seam, tall blocks or, failing both, one more vector.
    let seam = blocks.seam.iter().find(|seam| (1..=seam.columns).contains(&rest) && seam.fits(whole));
    let tall = blocks.tall.iter().position(|&(most, ..)| (1..=most).contains(&rest));
    let tall = tall.filter(|_| seam.is_none());
    let vectors = whole + usize::from(rest > 0 && seam.is_none() && tall.is_none());
    let near = (s.block.1 - s.block.0) * s.n <= NEAR;
    let chunk = if near { TILE } else { CHUNK };
    for start in s.rows().step_by(chunk) {
        let end = s.rows.1.min(start + chunk);
        let mut left = vectors;
        while left > 0 {
            let j = (vectors - left) * blocks.lanes;
            let width = next_width(left, seam).min(widest);
            let columns = width * blocks.lanes;
            for tile in (start..end).step_by(TILE) {
                let cover = match seam {
                    Some(seam) if left == width => seam.cover,
                    _ => blocks.wide[width - 1][usize::from(end - tile <= TILE / 2)],
                };
                let mut r = tile;
                for &(rows, block) in cover {
                    if r >= end {
                        break;
                    }
                    // SAFETY: the caller's; `r` is in the range and columns `j..` of the strip are left.
                    unsafe { block(s, r, j, ahead(s, r, rows, end, j, columns)) };
                    r += rows;
                }
            }
            left -= width;
        }
        let Some(tall) = tall else { continue };
        let most = blocks.tall[tall].0;
        let mut r = start;
        while r < end {
            let left = (end - r).div_ceil(TILE);
            let &(_, tiles, block) = blocks.tall[tall..]
                .iter()
                .find(|&&(columns, tiles, _)| columns == most && tiles <= left)
                .expect("blocks with rows in the lanes go down to a single tile");
            // SAFETY: the caller's; `tiles` tiles from `r` are left, and so are the columns after the whole vectors.
            unsafe { block(s, r, whole * blocks.lanes, next_weights(s, r, TILE)) };
            r += tiles * TILE;
        }
    }
}

/// float32 elements of a cache line.
const LINE: usize = 16;

/// What to fetch ahead while `rows` rows from `r` on pass over `columns` columns from `j` on: the next columns during
/// the last blocks of rows before `end`, a line of each of their rows a block, and the next tile of weights before.
fn ahead(
    s: &Strip<'_, Tiles<'_, f32>>,
    r: usize,
    rows: usize,
    end: usize,
    j: usize,
    columns: usize,
) -> Ahead {
    let line = (end - r - 1) / rows;
    if line < columns.div_ceil(LINE) {
        // After the strip's last columns come the next block of the depth or, where rows are longer than the strip,
        // the next strip's columns.
        let next =
            if j + columns < s.n || s.last { j + columns } else { (s.block.1 - s.block.0) * s.panel_stride };
        return Ahead { at: s.panel.wrapping_add(next + line * LINE), step: s.panel_stride };
    }
    next_weights(s, r, rows)
}

/// The share of `rows` rows from `r` on in fetching the tile of weights after theirs.
fn next_weights(s: &Strip<'_, Tiles<'_, f32>>, r: usize, rows: usize) -> Ahead {
    let (tile, depth) = (r / TILE, s.block.1 - s.block.0);
    let (tile, k) =
        if (tile + 1) * TILE < s.rows.1 { (tile + 1, s.block.0) } else { (s.rows.0 / TILE, s.block.1) };
    let at = (tile * s.weight.k() + k) * TILE + r % TILE * depth;
    Ahead { at: s.weight.values().as_ptr().wrapping_add(at), step: rows }
}

/// The weights of row `r` for the strip's block of the depth, [`TILE`] apart.
fn weights(s: &Strip<'_, Tiles<'_, f32>>, r: usize) -> *const f32 {
    s.weight.tile(r / TILE)[s.block.0 * TILE..s.block.1 * TILE].as_ptr().wrapping_add(r % TILE)
}

/// Stores `V` vectors of a row, from column `j` on.
///
/// To be inlined into a register block's function; a closure in it would be compiled without the features of that.
///
/// # Safety
/// As for [`walk`]; the row is in the range, and `V` vectors from `j` are in the strip.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn finish<S: Simd, const V: usize>(
    simd: S,
    s: &Strip<'_, Tiles<'_, f32>>,
    r: usize,
    j: usize,
    mut sums: [S::F; V],
) {
    let at = r * s.out_stride + j;
    // SAFETY: the caller's: the row is readable and writable to a whole number of vectors, as is the residual, which has
    // the output's shape.
    unsafe {
        let out = s.out.add(at);
        if !s.first {
            for (v, y) in sums.iter_mut().enumerate() {
                *y = simd.add(simd.load(out.add(v * S::LANES)), *y);
            }
        }
        if s.last {
            let (scale, bias) = scale_and_bias(s, r);
            let (scale, bias) = (simd.splat(scale), simd.splat(bias));
            for y in &mut sums {
                *y = simd.mul_add(*y, scale, bias);
            }
            if !s.residual.is_null() {
                for (v, y) in sums.iter_mut().enumerate() {
                    *y = simd.add(*y, simd.load(s.residual.add(at + v * S::LANES)));
                }
            }
            // A NaN, as the second operand, stays one.
            let [lo, hi] = s.epilogue.clamp;
            for y in &mut sums {
                *y = simd.max(simd.splat(lo), *y);
            }
            if hi < f32::INFINITY {
                for y in &mut sums {
                    *y = simd.min(simd.splat(hi), *y);
                }
            }
        }
        for (v, y) in sums.into_iter().enumerate() {
            simd.store(out.add(v * S::LANES), y);
        }
    }
}

/// The factor and the addend of row `r`.
fn scale_and_bias(s: &Strip<'_, Tiles<'_, f32>>, r: usize) -> (f32, f32) {
    (s.epilogue.scale.map_or(1.0, |scale| scale[r]), s.epilogue.bias.map_or(0.0, |bias| bias[r]))
}

#[cfg(test)]
mod tests;
