//! The loop nest of the vector tiers, over a tier's [`Lanes`].
//!
//! A *walk* goes down a column of the output one vector wide, visiting every input row once: the row's shifted vectors
//! are added to all outputs in progress that it is a tap of, so a row is loaded `kernel` times, not `kernel²`. Borders cost
//! no loads of their own: a vector that hangs over the edge of its row is loaded whole from the neighbouring rows and its
//! foreign lanes are masked out; only what would leave the slice is loaded lane by lane.
//!
//! Where two rows fit in a vector (7×7 maps and a vector of 16), rows are taken in pairs: lanes `[0, w)` hold one row's
//! outputs and `[w, 2w)` the next row's, which is a walk with twice the vertical stride.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Plane;

/// A tier's vectors of float32.
///
/// # Safety
/// Every method may be called only where the processor has the tier's features. `load` and `store` touch [`Self::N`]
/// elements from the pointer, `even` twice as many, `load_some` and `store_some` those whose bit is set.
pub(super) trait Lanes {
    /// Elements of a vector, at most 16.
    const N: usize;
    /// A vector.
    type V: Copy;
    /// Lanes chosen by the bits of a `u32`, in the form `fma_some` wants.
    type M: Copy;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn mask(bits: u32) -> Self::M;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Elements 0, 2, 4, …
    unsafe fn even(from: *const f32) -> Self::V;
    /// Lanes whose bit is not set are zero.
    unsafe fn load_some(from: *const f32, bits: u32) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `sum + a·b`.
    unsafe fn fma(sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `sum + a·b` in the chosen lanes, in the others `sum` or `sum + 0·b`, whatever `a` has there.
    unsafe fn fma_some(sum: Self::V, a: Self::V, b: Self::V, lanes: Self::M) -> Self::V;
    /// A NaN stays.
    unsafe fn clamp(value: Self::V, lo: Self::V, hi: Self::V) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    unsafe fn store_some(to: *mut f32, value: Self::V, bits: u32);
}

/// Output rows of a walk before it moves on to the next column: few enough that the rows of the band stay in the
/// nearest cache, enough that the rows two bands share do not weigh.
const BAND: usize = 28;

/// The lanes `[from, to)`.
fn bits(from: isize, to: isize) -> u32 {
    let (from, to) = (from.clamp(0, 32), to.clamp(0, 32));
    if from >= to { 0 } else { (u32::MAX >> (32 - (to - from))) << from }
}

/// Computes a plane, or returns `false` where this nest has no path for its window.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes>(plane: &Plane<'_>, out: &mut [f32]) -> bool {
    plane.check(out);
    let window = plane.window;
    let square = window.kernel[0] == window.kernel[1] && window.dilation == [1, 1];
    let same = window.ow == window.w && window.w * 2 <= L::N;
    // SAFETY: the caller's.
    unsafe {
        match (window.kernel[1], window.stride) {
            (3, [1, 1]) if square && same => walk::<L, 3, 2, 2, 1>(plane, out),
            (3, [1, 1]) if square => walk::<L, 3, 3, 1, 1>(plane, out),
            (3, [2, 2]) if square => walk::<L, 3, 2, 2, 2>(plane, out),
            (5, [1, 1]) if square && same => walk::<L, 5, 3, 2, 1>(plane, out),
            (5, [1, 1]) if square => walk::<L, 5, 5, 1, 1>(plane, out),
            (5, [2, 2]) if square => walk::<L, 5, 3, 2, 2>(plane, out),
            (7, [1, 1]) if square && same => walk::<L, 7, 4, 2, 1>(plane, out),
            (7, [1, 1]) if square => walk::<L, 7, 7, 1, 1>(plane, out),
            (7, [2, 2]) if square => walk::<L, 7, 4, 2, 2>(plane, out),
            (_, [_, 1]) => taps::<L>(plane, out),
            _ => return false,
        }
    }
    true
}

/// A `K`×`K` kernel without dilation. `SV` input rows and `SH` input columns lie between outputs of neighbouring steps and
/// lanes; they differ where a vector holds a pair of rows. `Q = ⌈K/SV⌉` outputs are in progress at a time.
///
/// # Safety
/// The processor has the features of `L`; `plane.check` passed; the window is of that kernel and stride, and with a
/// pair of rows `ow == w` and `2·w <= N`.
#[inline(always)]
unsafe fn walk<L: Lanes, const K: usize, const Q: usize, const SV: usize, const SH: usize>(
    plane: &Plane<'_>,
    out: &mut [f32],
) {
    let window = plane.window;
    let rows = SV / SH;
    let steps = window.oh.div_ceil(rows);
    let mut weights = [[0.0; K]; K];
    for (to, from) in weights.iter_mut().zip(plane.weights.chunks_exact(K)) {
        to.copy_from_slice(from);
    }
    for block in 0..window.ow.div_ceil(L::N) {
        // The last block is moved left to end with the row, so that only a plane narrower than a vector has idle lanes.
        let column = (block * L::N).min(window.ow.saturating_sub(L::N));
        let left = (column * SH) as isize - window.pad[1] as isize;
        let inside = left >= 0 && left as usize + K - 1 + SH * L::N <= window.w;
        for band in (0..steps).step_by(BAND) {
            let part = Part { column, left, first: band, last: steps.min(band + BAND) };
            // SAFETY: the caller's; `inside` says that no vector leaves its row.
            unsafe {
                if inside && rows == 1 {
                    descend::<L, K, Q, SV, SH, false>(plane, out, &weights, &part);
                } else {
                    descend::<L, K, Q, SV, SH, true>(plane, out, &weights, &part);
                }
            }
        }
    }
}

/// One column of a band.
struct Part {
    /// First output column.
    column: usize,
    /// Input column of the first lane of the first tap.
    left: isize,
    /// First step.
    first: usize,
    /// The step after the last.
    last: usize,
}

/// # Safety
/// As for [`walk`]; without `EDGE` all columns that the part's vectors load lie inside the row.
#[inline(always)]
unsafe fn descend<
    L: Lanes,
    const K: usize,
    const Q: usize,
    const SV: usize,
    const SH: usize,
    const EDGE: bool,
>(
    plane: &Plane<'_>,
    out: &mut [f32],
    weights: &[[f32; K]; K],
    part: &Part,
) {
    let window = plane.window;
    let (h, w) = (window.h as isize, window.w as isize);
    let rows = (SV / SH) as isize;
    let room = plane.x.len() as isize;
    // SAFETY (of the whole body): the processor has `L`'s features; each access says why it is in bounds.
    unsafe {
        // Lanes of a row, by tap, whose column lies inside.
        let valid: [u32; K] = std::array::from_fn(|tx| {
            let at = part.left + tx as isize;
            let lanes = L::N as isize;
            if SH == 1 {
                let row = bits(-at, (w - at).min(if rows == 2 { w } else { lanes }).min(lanes));
                if rows == 2 { row | row << w } else { row }
            } else {
                bits(-at.div_euclid(2), (w - at + 1).div_euclid(2).min(lanes))
            }
        });
        let masks: [L::M; K] = std::array::from_fn(|tx| L::mask(valid[tx]));
        let bias = L::splat(plane.bias);
        let (lo, hi) = (L::splat(plane.clamp[0]), L::splat(plane.clamp[1]));
        let mut sums = [bias; Q];
        for step in part.first..part.last + Q - 1 {
            for q in (1..Q).rev() {
                sums[q] = sums[q - 1];
            }
            sums[0] = bias;
            for phase in 0..SV {
                let row = (step * SV + phase) as isize - window.pad[0] as isize;
                if row <= -rows || row >= h {
                    continue;
                }
                let at = row * w + part.left;
                let from = plane.x.as_ptr().wrapping_offset(at);
                let whole = at >= 0
                    && at + (K - 1 + SH * L::N) as isize <= room
                    && (rows == 1 || (row >= 0 && row + rows <= h));
                if !EDGE || whole {
                    for tx in 0..K {
                        // In bounds: the row is inside the plane, and so are the columns, or `whole` says so.
                        let from = from.add(tx);
                        let x = if SH == 1 { L::load(from) } else { L::even(from) };
                        for q in 0..Q {
                            if q * SV + phase < K {
                                let weight = L::splat(weights[q * SV + phase][tx]);
                                sums[q] = if EDGE {
                                    L::fma_some(sums[q], x, weight, masks[tx])
                                } else {
                                    L::fma(sums[q], x, weight)
                                };
                            }
                        }
                    }
                } else {
                    // A pair of rows may hang over the top or the bottom.
                    let both =
                        bits(if row < 0 { w } else { 0 }, if rows == 2 && row + 1 == h { w } else { 32 });
                    for tx in 0..K {
                        // In bounds: only lanes inside the row, or rows, are loaded.
                        let from = from.wrapping_add(tx);
                        let x = if SH == 1 {
                            L::load_some(from, valid[tx] & both)
                        } else {
                            gather::<L>(from, valid[tx])
                        };
                        for q in 0..Q {
                            if q * SV + phase < K {
                                sums[q] = L::fma(sums[q], x, L::splat(weights[q * SV + phase][tx]));
                            }
                        }
                    }
                }
            }
            if step + 1 < part.first + Q {
                continue;
            }
            let oy = (step + 1 - Q) * rows as usize;
            let lanes = if rows == 2 { window.ow * (window.oh - oy).min(2) } else { window.ow - part.column };
            finish::<L>(plane, out, sums[Q - 1], oy * window.ow + part.column, lanes, [lo, hi]);
        }
    }
}

/// Every other element, of those lanes.
///
/// # Safety
/// The processor has `L`'s features, and elements `2·lane` are readable.
#[inline(never)]
unsafe fn gather<L: Lanes>(from: *const f32, lanes: u32) -> L::V {
    let mut picked = [0.0; 16];
    for (lane, to) in picked.iter_mut().enumerate() {
        if lanes >> lane & 1 == 1 {
            // SAFETY: the caller's.
            *to = unsafe { *from.wrapping_add(2 * lane) };
        }
    }
    // SAFETY: a vector is at most 16 elements.
    unsafe { L::load_some(picked.as_ptr(), u32::MAX) }
}

/// Adds the residual, clamps and stores `lanes` sums, or all: what a vector writes beyond them is the start of a row
/// that comes later, or lies after the plane.
///
/// # Safety
/// The processor has `L`'s features, `plane.check` passed, and elements `at..at + min(lanes, N)` are the plane's.
#[inline(always)]
unsafe fn finish<L: Lanes>(
    plane: &Plane<'_>,
    out: &mut [f32],
    sum: L::V,
    at: usize,
    lanes: usize,
    [lo, hi]: [L::V; 2],
) {
    let some = bits(0, lanes.min(L::N) as isize);
    // SAFETY: whole vectors are loaded and stored only where the slice has room for them, else the plane's lanes alone.
    unsafe {
        let mut value = sum;
        if let Some(residual) = plane.residual {
            let from = residual.as_ptr().add(at);
            let addend = if at + L::N <= residual.len() { L::load(from) } else { L::load_some(from, some) };
            value = L::add(value, addend);
        }
        value = L::clamp(value, lo, hi);
        let to = out.as_mut_ptr().add(at);
        if at + L::N <= out.len() {
            L::store(to, value);
        } else {
            L::store_some(to, value, some);
        }
    }
}

/// Any kernel and dilation, horizontal stride 1: four vectors of a row at a time, tap by tap.
///
/// # Safety
/// The processor has the features of `L`; `plane.check` passed; the horizontal stride is 1.
#[inline(always)]
unsafe fn taps<L: Lanes>(plane: &Plane<'_>, out: &mut [f32]) {
    const VECTORS: usize = 4;
    let window = plane.window;
    let (w, lanes) = (window.w as isize, L::N as isize);
    // SAFETY: as in `walk`; vectors are loaded whole only where they lie inside the row.
    unsafe {
        let (lo, hi) = (L::splat(plane.clamp[0]), L::splat(plane.clamp[1]));
        for oy in 0..window.oh {
            let (rows, first) = window.taps_of_row(oy);
            for column in (0..window.ow).step_by(VECTORS * L::N) {
                let used = (window.ow - column).div_ceil(L::N).min(VECTORS);
                let mut sums = [L::splat(plane.bias); VECTORS];
                for (i, ty) in rows.clone().enumerate() {
                    let row = plane.x.as_ptr().add((first + i * window.dilation[0]) * window.w);
                    for tx in 0..window.kernel[1] {
                        let weight = L::splat(plane.weights[ty * window.kernel[1] + tx]);
                        for (v, sum) in sums.iter_mut().enumerate().take(used) {
                            let at = (column + v * L::N + tx * window.dilation[1]) as isize
                                - window.pad[1] as isize;
                            let from = row.wrapping_offset(at);
                            if at >= 0 && at + lanes <= w {
                                *sum = L::fma(*sum, L::load(from), weight);
                            } else {
                                let inside = bits(-at, (w - at).min(lanes));
                                *sum = L::fma(*sum, L::load_some(from, inside), weight);
                            }
                        }
                    }
                }
                for (v, &sum) in sums.iter().enumerate().take(used) {
                    let start = column + v * L::N;
                    let at = oy * window.ow + start;
                    finish::<L>(plane, out, sum, at, window.ow - start, [lo, hi]);
                }
            }
        }
    }
}
