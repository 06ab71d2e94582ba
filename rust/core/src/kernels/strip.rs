//! What the matrix kernels share: a strip of columns, the panel they read, what is done to a finished sum.
//!
//! `out[r][j] = epilogue(Σ_k W[r][k] · x[k][j])` is computed a *strip* of columns at a time: pixels or tokens lie in
//! the SIMD lanes and weights are broadcast. The depth is cut into *blocks* small enough that a block of the strip,
//! the *panel*, stays in the nearest cache while every row of `W` passes over it.

use std::ops::Range;

pub use crate::weight::TILE;

/// float32 elements by which panels, outputs and residuals may be read or written past a strip's last column:
/// each row is readable, and writable, up to the next multiple of this.
pub const LANES: usize = 16;

/// What is done to a finished sum before it is stored: `clamp(scale[r] · sum + bias[r] + residual[r][j])`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// One factor a row of the whole weight, or none; weights stored as integers have one.
    pub scale: Option<&'a [f32]>,
    /// One addend a row of the whole weight, or none.
    pub bias: Option<&'a [f32]>,
    /// Lower and upper bound; infinite where there is none. A NaN passes through, as in torch.
    pub clamp: [f32; 2],
}

impl Epilogue<'_> {
    /// Stores the sum as it is.
    pub const NONE: Epilogue<'static> =
        Epilogue { scale: None, bias: None, clamp: [f32::NEG_INFINITY, f32::INFINITY] };
}

/// One call of a strip kernel: some rows of a weight over one panel.
///
/// A kernel computes `out[r][j] (+)= Σ_{k in block} W[r][k] · panel[k - block.start][j]` for `r` in `rows`, `j < n`;
/// the first block of the depth overwrites `out`, later ones add to it, the last also applies the epilogue.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a, W> {
    /// The weight.
    pub weight: W,
    /// Rows to compute; starts at a multiple of [`TILE`] and ends at one or at the weight's last row.
    pub rows: (usize, usize),
    /// Depth range to add, `[start, end)`.
    pub block: (usize, usize),
    /// Element `(block.start, 0)` of the strip's input; 64-byte aligned where `panel_stride` is a multiple of 16.
    pub panel: *const f32,
    /// Elements from one `k` to the next.
    pub panel_stride: usize,
    /// Columns of the strip, `1..=nr` of the kernel.
    pub n: usize,
    /// Element `(0, 0)` of the strip's output (row 0, not `rows.0`).
    pub out: *mut f32,
    /// Elements from one output row to the next.
    pub out_stride: usize,
    /// Element `(0, 0)` of an addend of the strip's shape, rows `out_stride` apart, or null. May be `out` itself only
    /// where the depth has a single block.
    pub residual: *const f32,
    /// What the last block does to a finished sum; `bias` is indexed by `r`.
    pub epilogue: Epilogue<'a>,
    /// Whether this is the first block of the depth.
    pub first: bool,
    /// Whether this is the last.
    pub last: bool,
}

impl<W> Strip<'_, W> {
    /// The rows as a range.
    pub fn rows(&self) -> Range<usize> {
        self.rows.0..self.rows.1
    }
}

/// A strip kernel of some tier; `R` is its family's function type, an
/// `unsafe fn(&Strip<'_, W>)` for that family's weight `W`.
///
/// # Safety
/// Whoever calls `run` holds the tier's token; the pointers of the [`Strip`] are valid for the rows, columns and depth it
/// names, each row up to the next multiple of [`LANES`] columns; nothing else touches that part of `out` meanwhile; and
/// the weight agrees with `rows` and `block`.
#[derive(Clone, Copy, Debug)]
pub struct StripKernel<R> {
    /// The code.
    pub run: R,
    /// Most columns a strip may have; a multiple of [`LANES`].
    pub nr: usize,
    /// Depth of a block that suits the caches; a weight that fixes its own block says so instead.
    pub kb: usize,
}
