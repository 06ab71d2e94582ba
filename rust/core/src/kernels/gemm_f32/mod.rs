//! float32 times float32, dense: `out[r][j] = epilogue(Σ_k W[r][k] · x[k][j])` over a strip of columns.
//!
//! A tier brings *register blocks*, a few rows by a few vectors of columns whose sums stay in registers for a whole block
//! of the depth; [`walk`] lays them over a strip. Columns past the last whole vector are computed the other way round
//! where that leaves fewer lanes idle: sixteen rows in the lanes, one column after another, turned in registers before
//! they are stored.
//!
//! A sum goes through `k` in order within a block of the depth, and blocks are added in order, whichever register block
//! computes it: its bits do not depend on how columns or rows are cut.

#![allow(unsafe_code, reason = "the loop nest calls register blocks, which take the strip's raw pointers")]

use super::Impl;
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
type Block = for<'a> unsafe fn(&Strip<'a, Tiles<'a, f32>>, r: usize, j: usize);

/// Most vectors of columns in a register block.
const WIDE: usize = 3;

/// The register blocks of a tier.
struct Blocks {
    /// Columns in a vector.
    lanes: usize,
    /// With columns in the lanes: rows, which divide [`TILE`], and the block of one, two and three vectors.
    wide: [(usize, Block); WIDE],
    /// With rows in the lanes: most columns, tiles of rows, and the block; fewest columns first and, among equals, most
    /// tiles first, down to a single one.
    tall: &'static [(usize, usize, Block)],
}

/// Lays a tier's blocks over a strip.
///
/// The columns of a block are the outer loop: `kb` rows of them stay in the first-level cache while the weights, fewer
/// bytes for the same work, pass by.
///
/// # Safety
/// As for [`StripKernel`], for the tier the blocks are written for.
unsafe fn walk(s: &Strip<'_, Tiles<'_, f32>>, blocks: &Blocks) {
    let rest = s.n % blocks.lanes;
    let tall = if rest == 0 { None } else { blocks.tall.iter().position(|&(columns, ..)| rest <= columns) };
    let mut vectors = if tall.is_some() { s.n / blocks.lanes } else { s.n.div_ceil(blocks.lanes) };
    let mut j = 0;
    while vectors > 0 {
        // Four vectors are better two and two than three and one: a single one keeps few sums in flight.
        let width = if vectors == 4 { 2 } else { vectors.min(WIDE) };
        let (rows, block) = blocks.wide[width - 1];
        for r in s.rows().step_by(rows) {
            // SAFETY: the caller's; `r` is in the range and columns `j..` of the strip are left.
            unsafe { block(s, r, j) };
        }
        j += width * blocks.lanes;
        vectors -= width;
    }
    let Some(tall) = tall else { return };
    let columns = blocks.tall[tall].0;
    let mut r = s.rows.0;
    while r < s.rows.1 {
        let left = (s.rows.1 - r).div_ceil(TILE);
        let &(_, tiles, block) = blocks.tall[tall..]
            .iter()
            .find(|&&(c, tiles, _)| c == columns && tiles <= left)
            .expect("blocks with rows in the lanes go down to a single tile");
        // SAFETY: the caller's; `tiles` tiles from `r` and columns `j..` of the strip are left.
        unsafe { block(s, r, j) };
        r += tiles * TILE;
    }
}

/// The weights of row `r` for the strip's block of the depth, [`TILE`] apart.
fn weights(s: &Strip<'_, Tiles<'_, f32>>, r: usize) -> *const f32 {
    s.weight.tile(r / TILE)[s.block.0 * TILE..s.block.1 * TILE].as_ptr().wrapping_add(r % TILE)
}

/// The factor and the addend of row `r`.
fn scale_and_bias(s: &Strip<'_, Tiles<'_, f32>>, r: usize) -> (f32, f32) {
    (s.epilogue.scale.map_or(1.0, |scale| scale[r]), s.epilogue.bias.map_or(0.0, |bias| bias[r]))
}

#[cfg(test)]
mod tests;
