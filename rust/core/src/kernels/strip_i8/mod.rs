//! What the int8 matrix kernels share: a strip of columns, the panel they read, and the one way from a sum to an output.
//!
//! The integer twin of [`strip`](super::strip): pixels or tokens lie in the SIMD lanes, activations are uint8 with a zero
//! point, weights int8 and symmetric, sums exact in i32. A strip is computed over its whole depth in one call; kernels
//! block the depth by themselves, since their sums never leave the stack.
//!
//! # The arithmetic
//!
//! For row `r` and column `j`, with `offset[r] = -x_zero_point · Σ_k W[r][k]`:
//!
//! ```text
//! sum = offset[r] + Σ_k W[r][k] · x[k][j]                                  exact, i32
//! y   = f32(sum) · scale[r] + bias[r]                                      float32: convert, multiply, add; never fused
//! y   = y + f32(residual[r][j] - residual.zero_point) · residual.scale     where there is a residual; never fused
//! out = clamp(rint(y) + zero_point, lo, hi)    or    clamp(y, lo, hi)      uint8 or float32; rint is half to even
//! ```
//!
//! Every rounding of this is that of IEEE 754 in its default mode, so every tier of every CPU gives the same bits.
//! [`Requant::real`], [`Residual::add`] and [`quantize`] are that arithmetic; kernels inline them into loops compiled for
//! their tier, and `avx2.rs` and `avx512.rs`, where it is written in vectors, must give the same.

#![allow(
    unsafe_code,
    reason = "strips are parts of a tensor that other threads write to: pointers, not slices"
)]

use std::ops::Range;

use super::pack::{RunBeside, RunGather};
use crate::weight::{QUAD, TILE, TilesI8};

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod dotprod;
pub mod rows;
#[cfg(test)]
pub(super) mod testing;

/// Most columns of a strip, or what that is a multiple of: a cache line of uint8.
pub const NR: usize = 64;

/// Columns by which panels, outputs and residuals may be read or written past a strip's last: each of their rows is
/// readable, and writable, up to the next multiple of this.
pub const LANES: usize = 16;

/// A panel is readable down to the next multiple of this depth, whatever it holds below the weight's.
pub const DEPTH: usize = 64;

/// The deepest sum that fits an i32 whatever its values: `255 · 128 · 65 793 < 2³¹`. A deeper weight is not for these
/// kernels.
pub const MAX_DEPTH: usize = 65_793;

/// An addend in uint8: the other branch of a residual connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// What one step is worth, in steps of the output where that is uint8.
    pub scale: f32,
    /// The byte that stands for zero.
    pub zero_point: u8,
}

impl Residual {
    /// `y` and what the byte `q` stands for.
    #[inline(always)]
    pub fn add(self, y: f32, q: u8) -> f32 {
        y + (i32::from(q) - i32::from(self.zero_point)) as f32 * self.scale
    }
}

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// `clamp(rint(y) + zero_point, lo, hi)`; a NaN is stored as `lo`.
    U8 {
        /// The byte that stands for zero.
        zero_point: u8,
        /// Least byte; above 0 where an activation is folded in.
        lo: u8,
        /// Greatest byte, not below `lo`.
        hi: u8,
    },
    /// `clamp(y, lo, hi)`; a NaN stays one.
    F32 {
        /// Lower bound, or minus infinity.
        lo: f32,
        /// Upper bound, or infinity; not below `lo`.
        hi: f32,
    },
}

/// What is done to a finished sum. The slices have an entry a row of the whole weight.
#[derive(Clone, Copy, Debug)]
pub struct Requant<'a> {
    /// `-x_zero_point · Σ_k W[r][k]`.
    pub offset: &'a [i32],
    /// What one unit of a sum is worth, in steps of the output where that is uint8.
    pub scale: &'a [f32],
    /// An addend, in the same unit as the output.
    pub bias: &'a [f32],
    /// The residual's meaning, where the strip has one.
    pub residual: Option<Residual>,
    /// What is stored.
    pub output: Output,
}

impl Requant<'_> {
    /// What a sum, offset included, stands for before a residual: three roundings at most.
    #[inline(always)]
    pub fn real(sum: i32, scale: f32, bias: f32) -> f32 {
        sum as f32 * scale + bias
    }
}

/// `clamp(rint(y) + zero_point, lo, hi)`, half to even; a NaN gives `lo`.
#[inline(always)]
pub fn quantize(y: f32, zero_point: u8, lo: u8, hi: u8) -> u8 {
    // Clamping first, to integers, gives the same as clamping last, and makes the rounding below exact for every y.
    let bound = |q: u8| (i32::from(q) - i32::from(zero_point)) as f32;
    let y = if y > bound(lo) { y } else { bound(lo) };
    let y = if y < bound(hi) { y } else { bound(hi) };
    // 1.5 · 2²³: in its binade floats are a unit apart, so the addition rounds to an integer, which the low bits then hold.
    const ROUND: f32 = 12_582_912.0;
    ((y + ROUND).to_bits() as u8).wrapping_add(zero_point)
}

/// `clamp(y, lo, hi)`; a NaN stays one.
#[inline(always)]
pub fn clamp(y: f32, lo: f32, hi: f32) -> f32 {
    let y = if lo > y { lo } else { y };
    if hi < y { hi } else { y }
}

/// One call of a strip kernel: some rows of a weight `W` over the whole depth of one panel.
#[derive(Clone, Copy, Debug)]
pub struct StripI8<'a, W> {
    /// The weight; at most [`MAX_DEPTH`] deep.
    pub weight: W,
    /// Rows to compute; starts at a multiple of [`TILE`] and ends at one or at the weight's last row.
    pub rows: (usize, usize),
    /// The strip's input, laid out as the family says: for `gemm_i8` what the kernel's own `pack` made, for `spmm_i8`
    /// plain rows `[k][panel_stride]`.
    pub panel: *const u8,
    /// Columns from one `k` (or group of four) to the next.
    pub panel_stride: usize,
    /// Columns of the strip, `1..=NR`, or more where a kernel says that it takes them.
    pub n: usize,
    /// Element `(0, 0)` of the strip's output (row 0, not `rows.0`): bytes, or an aligned `f32` where that is the output.
    pub out: *mut u8,
    /// Elements from one output row to the next.
    pub out_stride: usize,
    /// Element `(0, 0)` of the residual, or null where `requant` has none. May be `out` itself where that is uint8.
    pub residual: *const u8,
    /// Bytes from one row of the residual to the next.
    pub residual_stride: usize,
    /// What is done to a finished sum.
    pub requant: Requant<'a>,
}

impl<'a, W> StripI8<'a, W> {
    /// The call with another weight.
    pub fn with<V>(&self, weight: V) -> StripI8<'a, V> {
        let StripI8 {
            rows, panel, panel_stride, n, out, out_stride, residual, residual_stride, requant, ..
        } = *self;
        StripI8 { weight, rows, panel, panel_stride, n, out, out_stride, residual, residual_stride, requant }
    }

    /// The rows as a range.
    pub fn rows(&self) -> Range<usize> {
        self.rows.0..self.rows.1
    }

    /// Rows of the tile from row `r0` that are to be computed.
    #[inline(always)]
    pub(super) fn tile_rows(&self, r0: usize) -> usize {
        TILE.min(self.rows.1 - r0)
    }

    /// Columns in whole vectors of [`LANES`]: of a strip of at most [`NR`] columns, `1..=NR / LANES`.
    pub(super) fn vectors(&self) -> usize {
        self.n.div_ceil(LANES)
    }
}

/// A strip kernel of some tier; `R` is its family's function type, an `unsafe fn(&StripI8<'_, W>)` for that family's `W`.
///
/// # Safety
/// Whoever calls `run` holds the tier's token; the pointers of the [`StripI8`] are valid for the rows, columns and depth it
/// names, each row up to the next multiple of [`LANES`] columns; nothing else touches that part of `out` meanwhile; and
/// the weight and the slices of `requant` have the rows.
#[derive(Clone, Copy, Debug)]
pub struct StripI8Kernel<R> {
    /// The code.
    pub run: R,
    /// Makes the panel that `run` reads.
    pub pack: Pack,
    /// What makes panels of a stride of [`NR`] of what taps see, where the tier does so at once.
    pub gathers: Option<Gathers>,
}

/// Two ways to make a panel of what taps see.
#[derive(Clone, Copy, Debug)]
pub struct Gathers {
    /// The panel that [`Pack`] makes.
    pub taps: RunGather,
    /// That of groups of taps that lie side by side, which are other columns of the weight.
    pub beside: RunBeside,
}

/// Interleaves plain rows of columns into a panel: `pack(rows, n, panel, panel_stride)`.
///
/// `rows[k]` is the first of `n` columns of depth `k`, wherever it lies: in an activation (a convolution of kernel 1), in
/// an image padded beforehand (another kernel), or in a scratch row. The panel gets `[⌈k/4⌉][panel_stride][4]`, the four
/// depths of a group side by side as a four-way dot product takes them; what pads the last group is multiplied by weights
/// that are zero. Long depths may be packed in parts of whole groups.
///
/// # Safety
/// The tier's token is held; every row is readable, and every group of the panel writable, up to the next multiple of
/// [`LANES`] columns; `panel_stride` is at least that.
pub type Pack = unsafe fn(rows: &[*const u8], n: usize, panel: *mut u8, panel_stride: usize);

/// [`Pack`], to be compiled for a tier; `flip` is xored to every byte.
///
/// # Safety
/// As [`Pack`].
#[inline(always)]
pub(super) unsafe fn interleave(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize, flip: u8) {
    for (group, quad) in rows.chunks(QUAD).enumerate() {
        let rows: [*const u8; QUAD] = std::array::from_fn(|i| quad[i.min(quad.len() - 1)]);
        // SAFETY: the caller gives room for this group.
        let to = unsafe { panel.add(group * stride * QUAD) };
        let mut j = 0;
        while j + NR <= n {
            // SAFETY: `j + NR <= n` columns are readable and writable.
            unsafe { interleave_columns::<NR>(rows, j, to, flip) };
            j += NR;
        }
        while j < n {
            // SAFETY: rows and panel reach to the next multiple of LANES.
            unsafe { interleave_columns::<LANES>(rows, j, to, flip) };
            j += LANES;
        }
    }
}

/// Columns `j..j + N` of four rows.
///
/// # Safety
/// The rows are readable and `to` is writable there.
#[inline(always)]
unsafe fn interleave_columns<const N: usize>(rows: [*const u8; QUAD], j: usize, to: *mut u8, flip: u8) {
    // SAFETY: the caller's.
    let rows = unsafe { rows.map(|row| row.add(j).cast::<[u8; N]>().read_unaligned()) };
    let mut quads = [[0; QUAD]; N];
    for (j, quad) in quads.iter_mut().enumerate() {
        *quad = std::array::from_fn(|i| rows[i][j] ^ flip);
    }
    // SAFETY: the caller's.
    unsafe { to.add(j * QUAD).cast::<[[u8; QUAD]; N]>().write_unaligned(quads) };
}

/// The sums of one tile of rows over a strip, offsets included.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[i32; NR]; TILE]);

/// One block of the depth of one tile of rows of a dense weight.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `[quads][16][4]`.
    pub(super) weights: &'a [[[i8; QUAD]; TILE]],
    /// `[quads][stride][4]`.
    pub(super) panel: *const u8,
    /// Columns from one group of four depths to the next.
    pub(super) stride: usize,
    /// Rows of the tile that exist, `1..=16`; the others need not be computed.
    pub(super) rows: usize,
    /// What the sums of each row start from, where this is the first block of the depth: they are then overwritten.
    pub(super) start: Option<[i32; TILE]>,
    /// The tile's first row, where this is the last block of the depth: the sums are then finished.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "what AVX-512 reads"))]
    pub(super) finishes: Option<usize>,
}

/// What makes a signed byte, `x - 128`, of a uint8 `x` when xored to it.
#[cfg(target_arch = "aarch64")]
pub(super) const FLIP: u8 = 0x80;

#[cfg(target_arch = "aarch64")]
impl Block<'_> {
    /// `128 · Σ w` of each row: what the sums lack where the panel holds `x - 128`.
    #[inline(always)]
    pub(super) fn flipped(&self) -> [i32; TILE] {
        let mut sums = [0; TILE];
        for quad in self.weights {
            for (sum, w) in sums.iter_mut().zip(quad) {
                *sum += w.iter().map(|&w| i32::from(w)).sum::<i32>();
            }
        }
        sums.map(|sum| i32::from(FLIP) * sum)
    }
}

/// Four weights as the 32 bits that are broadcast.
#[inline(always)]
pub(super) fn word(weights: [i8; QUAD]) -> i32 {
    bytemuck::cast(weights)
}

/// Groups of four depths of a block: a block's panel, 16 KiB, and weights, 4 KiB, stay in the smallest first-level cache
/// while the rows of a tile pass over it.
pub(super) const BLOCK_QUADS: usize = 64;

/// Where a block of the depth of a tile of rows lies.
pub(super) struct Place {
    /// Of the weight's tiles.
    pub(super) tile: usize,
    /// Groups of four depths.
    pub(super) quads: Range<usize>,
}

/// The loop nest of a dense kernel whose weight is so many groups of four deep: hands `add` one block at a time, without
/// its weights, and `store` the finished sums of a tile from a row on.
///
/// To be inlined into a function compiled for the tier, of which `add` and `store` are closures.
///
/// # Safety
/// The strip is one of [`StripI8Kernel`]'s; `add` writes the sums of every column of the block's rows.
#[inline(always)]
pub(super) unsafe fn blocks<W>(
    s: &StripI8<'_, W>,
    quads: usize,
    mut add: impl FnMut(Place, Block<'_>, &mut Sums),
    store: impl Fn(usize, &[[i32; NR]]),
) {
    let mut sums = Sums([[0; NR]; TILE]);
    for r0 in s.rows().step_by(TILE) {
        let rows = s.tile_rows(r0);
        let mut start = [0; TILE];
        start[..rows].copy_from_slice(&s.requant.offset[r0..][..rows]);
        let mut start = Some(start);
        // A depth of nothing is a block too: it starts the sums.
        for q0 in (0..quads.max(1)).step_by(BLOCK_QUADS) {
            let stride = s.panel_stride;
            // SAFETY: the panel has as many groups as the weight.
            let panel = unsafe { s.panel.add(q0 * stride * QUAD) };
            let place = Place { tile: r0 / TILE, quads: q0..quads.min(q0 + BLOCK_QUADS) };
            let finishes = (q0 + BLOCK_QUADS >= quads).then_some(r0);
            add(place, Block { weights: &[], panel, stride, rows, start: start.take(), finishes }, &mut sums);
        }
        store(r0, &sums.0[..rows]);
    }
}

/// [`blocks`] of a weight as the file has it.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
pub(super) unsafe fn dense(
    s: &StripI8<'_, TilesI8<'_>>,
    mut add: impl FnMut(Block<'_>, &mut Sums),
    store: impl Fn(usize, &[[i32; NR]]),
) {
    let add = |place: Place, block: Block<'_>, sums: &mut Sums| {
        let tile = s.weight.tile(place.tile).as_chunks().0.as_chunks().0;
        add(Block { weights: &tile[place.quads], ..block }, sums);
    };
    // SAFETY: the caller's.
    unsafe { blocks(s, s.weight.quads(), add, store) };
}

/// Stores finished sums of the rows from `r0`.
///
/// # Safety
/// The strip is one of [`StripI8Kernel`]'s and has the rows.
#[inline(always)]
pub(super) unsafe fn store_rows<W>(s: &StripI8<'_, W>, r0: usize, sums: &[[i32; NR]]) {
    for (i, row) in sums.iter().enumerate() {
        if s.vectors() * LANES == NR {
            // SAFETY: the caller's.
            unsafe { store_columns::<NR, W>(s, r0 + i, 0, row) };
        } else {
            for (v, part) in row.as_chunks::<LANES>().0[..s.vectors()].iter().enumerate() {
                // SAFETY: the caller's, up to the next multiple of LANES.
                unsafe { store_columns::<LANES, W>(s, r0 + i, v * LANES, part) };
            }
        }
    }
}

/// Stores the sums of row `r` and columns `j..j + N`.
///
/// # Safety
/// As [`store_rows`].
#[inline(always)]
pub(super) unsafe fn store_columns<const N: usize, W>(
    s: &StripI8<'_, W>,
    r: usize,
    j: usize,
    sums: &[i32; N],
) {
    let Requant { scale, bias, residual, output, .. } = s.requant;
    let (scale, bias) = (scale[r], bias[r]);
    let mut y = [0.0; N];
    for (y, &sum) in y.iter_mut().zip(sums) {
        *y = Requant::real(sum, scale, bias);
    }
    if let Some(residual) = residual {
        // SAFETY: the strip has the row and these columns; bytes have no alignment.
        let addend = unsafe { s.residual.add(r * s.residual_stride + j).cast::<[u8; N]>().read() };
        for (y, q) in y.iter_mut().zip(addend) {
            *y = residual.add(*y, q);
        }
    }
    match output {
        Output::U8 { zero_point, lo, hi } => {
            let mut bytes = [0; N];
            for (byte, y) in bytes.iter_mut().zip(y) {
                *byte = quantize(y, zero_point, lo, hi);
            }
            // SAFETY: the strip has the row and these columns; bytes have no alignment.
            unsafe { s.out.add(r * s.out_stride + j).cast::<[u8; N]>().write(bytes) };
        }
        Output::F32 { lo, hi } => {
            for y in &mut y {
                *y = clamp(*y, lo, hi);
            }
            // SAFETY: the strip has the row and these columns, and its output is of aligned floats.
            unsafe { s.out.cast::<f32>().add(r * s.out_stride + j).cast::<[f32; N]>().write(y) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizing_rounds_ties_to_even_and_clamps_everything() {
        for half in -1100..1100i32 {
            let y = half as f32 / 2.0;
            for zero_point in [0, 1, 128, 255] {
                let expected = (f64::from(y).round_ties_even() + f64::from(zero_point)).clamp(0.0, 255.0);
                assert_eq!(f64::from(quantize(y, zero_point, 0, 255)), expected, "{y} with {zero_point}");
            }
        }
        for (y, expected) in [
            (f32::INFINITY, 200),
            (f32::NEG_INFINITY, 3),
            (f32::NAN, 3),
            (f32::MAX, 200),
            (-1e-40, 100),
            (0.499_999_97, 100),
            (0.500_000_06, 101),
        ] {
            assert_eq!(quantize(y, 100, 3, 200), expected, "{y}");
        }
    }

    #[test]
    fn clamping_keeps_a_nan_and_the_sign_of_zero() {
        assert!(clamp(f32::NAN, 0.0, 6.0).is_nan());
        assert_eq!(clamp(-0.0, 0.0, 6.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!([clamp(-1.0, 0.0, 6.0), clamp(7.0, 0.0, 6.0)], [0.0, 6.0]);
    }

    #[test]
    fn the_deepest_sum_fits() {
        let depth = MAX_DEPTH as i64;
        assert!(255 * 128 * depth <= i64::from(i32::MAX) && 255 * 128 * (depth + 1) > i64::from(i32::MAX));
    }
}
