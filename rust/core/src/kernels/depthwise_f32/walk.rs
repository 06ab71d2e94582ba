//! The loop nest of the vector tiers, over a tier's [`Lanes`].
//!
//! It goes over a plane by [walks](crate::kernels::walk): a row's shifted vectors are added to all outputs in progress that
//! it is a tap of, so a row is loaded `kernel` times, not `kernel²`.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Channels;
use crate::kernels::unroll::unroll;
use crate::kernels::walk::{Part, Steps, Walk};
use crate::kernels::window::Window2;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A tier's vectors of float32.
///
/// # Safety
/// Every method may be called only where the processor has the tier's features. `load` and `store` touch [`Self::N`]
/// elements from the pointer, `load_some` and `store_some` those whose bit is set (and no more bits than lanes are set).
pub(super) trait Lanes {
    /// Elements of a vector, at most 16.
    const N: usize;
    /// Whether a multiplication broadcasts a factor from memory as it goes.
    const BROADCASTS: bool;
    /// A vector.
    type V: Copy;
    /// Lanes chosen by bits, in the form `fma_some` wants.
    type M: Copy;

    /// Asks for the line at `at`, which may be anywhere.
    unsafe fn prefetch(at: *const f32);
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn mask(bits: u32) -> Self::M;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Elements 0, 2, 4, … of `a` and then of `b`, and elements 1, 3, 5, …, both in an order that suits the tier.
    unsafe fn split(a: Self::V, b: Self::V) -> [Self::V; 2];
    /// The first of [`Lanes::split`]'s vectors in order.
    unsafe fn sort(evens: Self::V) -> Self::V;
    /// The mask that belongs to the first of [`Lanes::split`]'s vectors, of bits that belong to both its operands.
    unsafe fn mask_evens(bits: u32) -> Self::M;
    /// Lanes whose bit is not set are zero.
    unsafe fn load_some(from: *const f32, bits: u32) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `sum + a·b`.
    unsafe fn fma(sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Prepares `value` for [`Lanes::fma_some`].
    unsafe fn some(value: Self::V, lanes: Self::M) -> Self::V;
    /// `sum + a·b` in the chosen lanes, in the others `sum` or `sum + 0·b`, whatever was in `a` before `some`.
    unsafe fn fma_some(sum: Self::V, a: Self::V, b: Self::V, lanes: Self::M) -> Self::V;
    /// A NaN stays.
    unsafe fn clamp(value: Self::V, lo: Self::V, hi: Self::V) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    unsafe fn store_some(to: *mut f32, value: Self::V, bits: u32);
}

/// Most steps of a walk before it moves on to the next column: few enough that the lines it shares with that column are
/// still in the nearest cache, enough that the rows two bands share do not weigh.
const BAND: usize = 56;

/// Elements of a cache line.
const LINE: usize = 16;

/// The lanes `[from, to)`.
fn bits(from: isize, to: isize) -> u32 {
    let (from, to) = (from.clamp(0, 32), to.clamp(0, 32));
    if from >= to { 0 } else { (u32::MAX >> (32 - (to - from))) << from }
}

/// Bits 0, 2, 4, … side by side.
pub(super) fn every_other(bits: u32) -> u32 {
    let mut packed = bits & 0x5555_5555;
    for (shift, mask) in [(1, 0x3333_3333), (2, 0x0f0f_0f0f), (4, 0x00ff_00ff), (8, 0x0000_ffff)] {
        packed = (packed | packed >> shift) & mask;
    }
    packed
}

/// Computes a run of channels, or returns `false` where this nest has no path for its window.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes>(run: &Channels<'_>, out: &mut [f32]) -> bool {
    run.check(out);
    let window = run.window;
    let square = window.kernel[0] == window.kernel[1] && window.dilation == [1, 1];
    let pairs = window.ow == window.w && window.w * 2 <= L::N;
    // SAFETY: the caller's; `run.check` passed.
    unsafe {
        match (window.kernel[1], window.stride) {
            (3, [1, 1]) if square && pairs => walk::<L, 3, 2, 2, 1>(run, out),
            (3, [1, 1]) if square => walk::<L, 3, 3, 1, 1>(run, out),
            (3, [2, 2]) if square => walk::<L, 3, 2, 2, 2>(run, out),
            (5, [1, 1]) if square && pairs => walk::<L, 5, 3, 2, 1>(run, out),
            (5, [1, 1]) if square => walk::<L, 5, 5, 1, 1>(run, out),
            (5, [2, 2]) if square => walk::<L, 5, 3, 2, 2>(run, out),
            (7, [1, 1]) if square && pairs => walk::<L, 7, 4, 2, 1>(run, out),
            (7, [1, 1]) if square => walk::<L, 7, 7, 1, 1>(run, out),
            (7, [2, 2]) if square => walk::<L, 7, 4, 2, 2>(run, out),
            (_, [_, 1]) => taps::<L, 4>(run, out),
            _ => return false,
        }
    }
    true
}

/// A `K`×`K` kernel without dilation. `SV` input rows and `SH` input columns lie between outputs of neighbouring steps and
/// lanes; they differ where a vector holds a pair of rows. `Q = ⌈K/SV⌉` outputs are in progress at a time.
///
/// # Safety
/// The processor has the features of `L`; `run.check` passed; the window is of that kernel and stride, and with a
/// pair of rows `ow == w` and `2·w <= N`.
#[inline(always)]
unsafe fn walk<L: Lanes, const K: usize, const Q: usize, const SV: usize, const SH: usize>(
    run: &Channels<'_>,
    out: &mut [f32],
) {
    let reach = K - 1 + SH * L::N;
    let walk = Walk { window: run.window, n: L::N, stride: [SV, SH], q: Q, reach, band: BAND };
    for (part, channels) in walk.parts(run.bias.len(), size_of::<f32>()) {
        // SAFETY: the caller's; `edge` says whether a vector leaves its row.
        unsafe {
            if part.edge {
                descend::<L, K, Q, SV, SH, true>(run, out, &walk, &part, channels);
            } else {
                descend::<L, K, Q, SV, SH, false>(run, out, &walk, &part, channels);
            }
        }
    }
}

/// Walks down a column of each of some channels.
///
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
    run: &Channels<'_>,
    out: &mut [f32],
    walk: &Walk<'_>,
    part: &Part,
    channels: Range<usize>,
) {
    let window = run.window;
    let (h, w, top) = (window.h as isize, window.w as isize, window.pad[0] as isize);
    let rows = SV / SH;
    // A plane walked alone is neither read nor written in order, so its successor is asked for while it is walked: a step
    // reads `SV` rows of `SH` vectors, and writes one.
    let ahead = part.before.map(|steps| steps * L::N);
    let room = run.residual.map_or(out.len(), |residual| residual.len().min(out.len()));
    // SAFETY: the caller's; `Column` and `finish` say why accesses are in bounds.
    unsafe {
        let valid = lanes_inside::<L, K, SV, SH>(window, part.left);
        let masks =
            std::array::from_fn(|tx| if SH == 1 { L::mask(valid[tx]) } else { L::mask_evens(valid[tx]) });
        let bounds = [L::splat(run.clamp[0]), L::splat(run.clamp[1])];
        let mut spread = [const { MaybeUninit::uninit() }; 49];
        for channel in channels {
            let start = (channel * run.x_pitch) as isize + part.left;
            let begin = channel * run.out_pitch + part.column;
            let fits = begin + window.oh * window.ow + L::N <= room;
            let Steps { all, whole, emits } = walk.steps(part, start, run.x.len(), fits);

            let weights = &run.weights[channel * K * K..][..K * K];
            let column = Column::<L, K> {
                origin: run.x.as_ptr().wrapping_offset(start - top * w),
                size: [h, w, top],
                valid,
                masks,
                weights: weights.as_ptr(),
                spread: if K == 3 || L::BROADCASTS {
                    std::ptr::null()
                } else {
                    for (to, &weight) in spread.iter_mut().zip(weights) {
                        to.write(L::splat(weight));
                    }
                    // Opaque, so that they are read where they lie rather than moved about for want of registers.
                    black_box(spread.as_ptr().cast())
                },
                held: std::array::from_fn(|tap| L::splat(weights[tap])),
                bias: L::splat(run.bias[channel]),
            };
            let mut sums = [column.bias; Q];
            let mut at = begin + all.start * rows * window.ow;
            for step in all.start..whole.start {
                sums = column.advance::<Q, SV, SH, EDGE, false>(sums, step);
                if step >= emits {
                    finish::<L, SH, false>(run, out, sums[Q - 1], at, walk.lanes(part, step), bounds);
                    at += rows * window.ow;
                }
            }
            let next = ahead.unwrap_or(0);
            let mut next_x = run.x.as_ptr().wrapping_add((channel + 1) * run.x_pitch + next * SV * SH);
            let mut next_out = out.as_ptr().wrapping_add((channel + 1) * run.out_pitch + next);
            for step in whole.clone() {
                if ahead.is_some() {
                    unroll!(I < SV * SH, {
                        if (I * L::N).is_multiple_of(LINE) {
                            L::prefetch(next_x.wrapping_add(I * L::N));
                        }
                    });
                    L::prefetch(next_out);
                    next_x = next_x.wrapping_add(SV * SH * L::N);
                    next_out = next_out.wrapping_add(L::N);
                }
                sums = column.advance::<Q, SV, SH, EDGE, true>(sums, step);
                if step >= emits {
                    finish::<L, SH, true>(run, out, sums[Q - 1], at, L::N, bounds);
                    at += rows * window.ow;
                }
            }
            for step in whole.end..all.end {
                sums = column.advance::<Q, SV, SH, EDGE, false>(sums, step);
                if step >= emits {
                    finish::<L, SH, false>(run, out, sums[Q - 1], at, walk.lanes(part, step), bounds);
                    at += rows * window.ow;
                }
            }
        }
    }
}

/// By tap, the lanes whose column lies inside the row; with stride 2, the columns themselves, twice as many.
#[inline(always)]
fn lanes_inside<L: Lanes, const K: usize, const SV: usize, const SH: usize>(
    window: &Window2,
    left: isize,
) -> [u32; K] {
    let w = window.w as isize;
    std::array::from_fn(|tx| {
        let at = left + tx as isize;
        if SV == SH {
            bits(-at, (w - at).min((SH * L::N) as isize))
        } else {
            let row = bits(-at, (w - at).min(w));
            row | row << w
        }
    })
}

/// Whether, of a kernel with `k` columns and stride 2, tap `tx` finds its columns in the two vectors of the tap before. Where
/// the padding is half of the kernel, shared vectors start as the row does, so that few lie on two lines.
const fn shares(k: usize, tx: usize) -> bool {
    tx > 0 && (tx + k / 2) % 2 == 1
}

/// One vector of columns of one channel.
struct Column<L: Lanes, const K: usize> {
    /// The first lane of the first tap, in the row that step 0 starts with; inside the slice or not.
    origin: *const f32,
    /// The plane's rows and columns, and rows of padding before it.
    size: [isize; 3],
    /// See [`lanes_inside`].
    valid: [u32; K],
    masks: [L::M; K],
    weights: *const f32,
    /// The weights of larger kernels, each in all lanes, where it takes an instruction to make them so.
    spread: *const L::V,
    /// The first nine weights: those of a 3×3 kernel stay in registers.
    held: [L::V; 9],
    bias: L::V,
}

impl<L: Lanes, const K: usize> Column<L, K> {
    /// Starts a step's output and adds the step's `SV` rows to all outputs in progress, of which `sums[q]` was started
    /// `q` steps ago.
    ///
    /// # Safety
    /// As for [`walk`]; where `WHOLE`, the vectors of the step's rows lie in the slice, and their lanes in the plane or
    /// outside the mask.
    #[inline(always)]
    #[allow(unused_assignments, reason = "the last tap of a row need not keep what no tap after it meets")]
    unsafe fn advance<
        const Q: usize,
        const SV: usize,
        const SH: usize,
        const EDGE: bool,
        const WHOLE: bool,
    >(
        &self,
        before: [L::V; Q],
        step: usize,
    ) -> [L::V; Q] {
        let [h, w, top] = self.size;
        let rows = (SV / SH) as isize;
        let mut sums = before;
        unroll!(I < Q, { sums[I] = if I == 0 { self.bias } else { before[I.saturating_sub(1)] } });
        unroll!(PHASE < SV, {
            let line = (step * SV + PHASE) as isize;
            let row = line - top;
            // Lanes of which the row, of a pair, lies inside.
            let pair = if SV == SH || WHOLE {
                u32::MAX
            } else {
                bits(if row < 0 { w } else { 0 }, if row + 1 == h { w } else { 32 })
            };
            if WHOLE || (row > -rows && row < h) {
                let mut odds = self.bias;
                unroll!(TX < K, {
                    let from = self.origin.wrapping_offset(line * w + TX as isize);
                    // SAFETY: the processor has `L`'s features. `WHOLE` rows may be loaded whole, and so may those of
                    // columns that all lie inside; of others, the lanes that lie in the plane.
                    let x = unsafe {
                        let (valid, next) = (self.valid[TX], from.wrapping_add(L::N));
                        let x = match (WHOLE || !EDGE, SH) {
                            (true, 1) => L::load(from),
                            (false, 1) => L::load_some(from, valid & pair),
                            _ if shares(K, TX) => odds,
                            (whole, _) => {
                                let pair = if whole {
                                    [L::load(from), L::load(next)]
                                } else {
                                    [L::load_some(from, valid), L::load_some(next, valid >> L::N)]
                                };
                                let evens;
                                [evens, odds] = L::split(pair[0], pair[1]);
                                evens
                            }
                        };
                        if WHOLE && EDGE { L::some(x, self.masks[TX]) } else { x }
                    };
                    unroll!(I < Q, {
                        if I * SV + PHASE < K {
                            let tap = (I * SV + PHASE) * K + TX;
                            // SAFETY: the processor has `L`'s features; there are `K`² weights.
                            sums[I] = unsafe {
                                let weight = match (K, L::BROADCASTS) {
                                    (3, _) => self.held[tap],
                                    (_, true) => L::splat(*self.weights.add(tap)),
                                    (_, false) => *self.spread.add(tap),
                                };
                                if WHOLE && EDGE {
                                    L::fma_some(sums[I], x, weight, self.masks[TX])
                                } else {
                                    L::fma(sums[I], x, weight)
                                }
                            };
                        }
                    });
                });
            }
        });
        sums
    }
}

/// Adds the residual, clamps and stores `lanes` sums, or all: what a vector writes beyond them is the start of a row
/// that comes later, or lies after the plane.
///
/// # Safety
/// The processor has `L`'s features, `run.check` passed, elements `at..at + min(lanes, N)` are a plane's, and where
/// `WHOLE` the slices have `N` elements there.
#[inline(always)]
unsafe fn finish<L: Lanes, const SH: usize, const WHOLE: bool>(
    run: &Channels<'_>,
    out: &mut [f32],
    sum: L::V,
    at: usize,
    lanes: usize,
    [lo, hi]: [L::V; 2],
) {
    let some = || bits(0, lanes.min(L::N) as isize);
    // SAFETY: whole vectors are loaded and stored only where the slice has room for them, else the plane's lanes alone.
    unsafe {
        let mut value = if SH == 1 { sum } else { L::sort(sum) };
        if let Some(residual) = run.residual {
            let from = residual.as_ptr().add(at);
            let whole = WHOLE || at + L::N <= residual.len();
            value = L::add(value, if whole { L::load(from) } else { L::load_some(from, some()) });
        }
        value = L::clamp(value, lo, hi);
        let to = out.as_mut_ptr().add(at);
        if WHOLE || at + L::N <= out.len() {
            L::store(to, value);
        } else {
            L::store_some(to, value, some());
        }
    }
}

/// Any kernel and dilation, horizontal stride 1: `VECTORS` vectors of a row at a time, tap by tap.
///
/// # Safety
/// The processor has the features of `L`; `run.check` passed; the horizontal stride is 1.
#[inline(always)]
unsafe fn taps<L: Lanes, const VECTORS: usize>(run: &Channels<'_>, out: &mut [f32]) {
    let window = run.window;
    let (w, lanes) = (window.w as isize, L::N as isize);
    let [tall, wide] = window.kernel;
    // SAFETY: as in `walk`; vectors are loaded whole only where they lie inside the row.
    unsafe {
        let bounds = [L::splat(run.clamp[0]), L::splat(run.clamp[1])];
        for (channel, &bias) in run.bias.iter().enumerate() {
            let plane = run.x.as_ptr().add(channel * run.x_pitch);
            let weights = &run.weights[channel * tall * wide..][..tall * wide];
            for oy in 0..window.oh {
                let (rows, first) = window.taps_of_row(oy);
                for column in (0..window.ow).step_by(VECTORS * L::N) {
                    let used = (window.ow - column).div_ceil(L::N).min(VECTORS);
                    let mut sums = [L::splat(bias); VECTORS];
                    for (i, ty) in rows.clone().enumerate() {
                        let row = plane.add((first + i * window.dilation[0]) * window.w);
                        for tx in 0..wide {
                            let weight = L::splat(weights[ty * wide + tx]);
                            let offset = (column + tx * window.dilation[1]) as isize - window.pad[1] as isize;
                            unroll!(V < VECTORS, {
                                let at = offset + V as isize * lanes;
                                let from = row.wrapping_offset(at);
                                if at >= 0 && at + lanes <= w {
                                    sums[V] = L::fma(sums[V], L::load(from), weight);
                                } else if V < used {
                                    let inside = bits(-at, (w - at).min(lanes));
                                    sums[V] = L::fma(sums[V], L::load_some(from, inside), weight);
                                }
                            });
                        }
                    }
                    for (v, &sum) in sums.iter().enumerate().take(used) {
                        let start = column + v * L::N;
                        let at = channel * run.out_pitch + oy * window.ow + start;
                        finish::<L, 1, false>(run, out, sum, at, window.ow - start, bounds);
                    }
                }
            }
        }
    }
}
