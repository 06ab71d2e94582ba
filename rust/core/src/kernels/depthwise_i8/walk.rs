//! The loop nest of AVX-512 VNNI and NEON, over a tier's [`Lanes`].
//!
//! It goes over a plane by [walks](crate::kernels::walk): what a row's windows are to a group of taps is worked out once and
//! added to all outputs in progress that the row is a tap of.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Channels;
use super::lanes::{Finish, Lanes, Place, bits, pack_kernel};
use crate::kernels::unroll::unroll;
use crate::kernels::walk::{Part, Steps, Walk};
use crate::kernels::window::Window2;
use std::hint::black_box;
use std::ops::Range;

/// Most steps of a walk before it moves on to the next column, as in `depthwise_f32`.
const BAND: usize = 112;

/// Computes a run of channels, or returns `false` where this nest has no path for its window.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes>(run: &Channels<'_>, out: &mut [u8]) -> bool {
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
    out: &mut [u8],
) {
    let reach = reach::<L, K, SH>();
    let walk = Walk { window: run.window, n: L::N, stride: [SV, SH], q: Q, reach, band: BAND };
    for (part, channels) in walk.parts(run.requant.offset.len(), size_of::<u8>()) {
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

/// Bytes that the groups of a row of taps read, from the first lane's first.
const fn reach<L: Lanes, const K: usize, const SH: usize>() -> usize {
    (K - 1) / L::TAPS * L::TAPS + L::READ[SH - 1]
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
    out: &mut [u8],
    walk: &Walk<'_>,
    part: &Part,
    channels: Range<usize>,
) {
    let window = run.window;
    let (h, w, top) = (window.h as isize, window.w as isize, window.pad[0] as isize);
    let rows = SV / SH;
    // SAFETY: the caller's; `Column` and `Finish` say why accesses are in bounds.
    unsafe {
        let masks = masks::<L, K, SV, SH, EDGE>(window, part.left);
        for channel in channels {
            let start = (channel * run.x_pitch) as isize + part.left;
            let fits = Place::new(run, channel, window.oh * window.ow).fits::<L>(run, out);
            let Steps { all, whole, emits } = walk.steps(part, start, run.x.len(), fits);

            let packed = pack_kernel::<L, K>(run, channel);
            let column = Column::<L, K> {
                origin: run.x.as_ptr().wrapping_offset(start - top * w),
                size: [h, w, top],
                left: part.left,
                start,
                room: run.x.len() as isize,
                masks: &masks,
                outside: L::constant(run.x_zero_point),
                held: std::array::from_fn(|i| L::weights(packed[i])),
                // Opaque, so that what does not fit in registers is read where it lies rather than moved about.
                packed: if K == 3 { packed.as_ptr() } else { black_box(packed.as_ptr()) },
                offset: L::sums(run.requant.offset[channel]),
            };
            let finish = Finish::<L>::new(run, channel, run.residual);
            let mut sums = [column.offset; Q];
            let mut place = Place::new(run, channel, all.start * rows * window.ow + part.column);
            for step in all.start..whole.start {
                sums = column.advance::<Q, SV, SH, EDGE, false>(sums, step);
                if step >= emits {
                    let fits = place.fits::<L>(run, out);
                    finish.store::<SH>(out, sums[Q - 1], &place, walk.lanes(part, step), fits);
                    place.skip(rows * window.ow);
                }
            }
            for step in whole.clone() {
                sums = column.advance::<Q, SV, SH, EDGE, true>(sums, step);
                if step >= emits {
                    finish.store::<SH>(out, sums[Q - 1], &place, L::N, true);
                    place.skip(rows * window.ow);
                }
            }
            for step in whole.end..all.end {
                sums = column.advance::<Q, SV, SH, EDGE, false>(sums, step);
                if step >= emits {
                    let fits = place.fits::<L>(run, out);
                    finish.store::<SH>(out, sums[Q - 1], &place, walk.lanes(part, step), fits);
                    place.skip(rows * window.ow);
                }
            }
        }
    }
}

/// The masks of the groups of a row of taps: of whole rows, and of a pair of which only the second or the first row is
/// the plane's.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
unsafe fn masks<L: Lanes, const K: usize, const SV: usize, const SH: usize, const EDGE: bool>(
    window: &Window2,
    left: isize,
) -> [[L::M; 7]; 3] {
    let w = window.w as isize;
    let group = |group: usize, rows: u32| {
        let lanes: [u32; 4] = std::array::from_fn(|tap| {
            let at = left + (group * L::TAPS + tap) as isize;
            if SV == SH {
                let (s, n) = (SH as isize, L::N as isize);
                bits((-at + s - 1).div_euclid(s), (w - at + s - 1).div_euclid(s).min(n)) as u32
            } else {
                let row = bits(-at, (w - at).min(w)) as u32;
                (row | row << w) & rows
            }
        });
        // SAFETY: the caller's.
        unsafe { L::mask::<SH>(if EDGE { lanes } else { [u32::MAX; 4] }) }
    };
    let row = if SV == SH { u32::MAX } else { bits(0, w) as u32 };
    [u32::MAX, !row, row].map(|rows| std::array::from_fn(|i| group(i, rows)))
}

/// One vector of columns of one channel.
struct Column<'a, L: Lanes, const K: usize> {
    /// The first lane of the first tap, in the row that step 0 starts with; inside the slice or not.
    origin: *const u8,
    /// The plane's rows and columns, and rows of padding before it.
    size: [isize; 3],
    /// Input column of the first lane of the first tap.
    left: isize,
    /// Where that lies in row 0, in the slice, and how long the slice is.
    start: isize,
    room: isize,
    /// Of all channels: too much to copy for each.
    masks: &'a [[L::M; 7]; 3],
    /// Windows of the zero point.
    outside: L::X,
    packed: *const i32,
    /// The first nine groups' weights: those of a 3×3 kernel stay in registers.
    held: [L::W; 9],
    offset: L::Sums,
}

impl<L: Lanes, const K: usize> Column<'_, L, K> {
    /// Starts a step's output and adds the step's `SV` rows to all outputs in progress, of which `sums[q]` was started
    /// `q` steps ago.
    ///
    /// # Safety
    /// As for [`walk`]; where `WHOLE`, the vectors of the step's rows lie in the slice, and their lanes in the plane or
    /// outside the mask.
    #[inline(always)]
    unsafe fn advance<
        const Q: usize,
        const SV: usize,
        const SH: usize,
        const EDGE: bool,
        const WHOLE: bool,
    >(
        &self,
        before: [L::Sums; Q],
        step: usize,
    ) -> [L::Sums; Q] {
        let [h, w, top] = self.size;
        let rows = (SV / SH) as isize;
        let mut sums = before;
        unroll!(I < Q, { sums[I] = if I == 0 { self.offset } else { before[I.saturating_sub(1)] } });
        unroll!(PHASE < SV, {
            let line = (step * SV + PHASE) as isize;
            let row = line - top;
            let inside = WHOLE || (row > -rows && row < h);
            // What hangs over an edge of the plane may still lie in the slice.
            let at = self.start + row * w;
            let within = WHOLE || (at >= 0 && at + reach::<L, K, SH>() as isize <= self.room);
            // Of a pair that hangs over the top or the bottom, the row inside.
            let masks = match (WHOLE || SV == SH, row < 0, row + 1 == h) {
                (false, true, _) => &self.masks[1],
                (false, _, true) => &self.masks[2],
                _ => &self.masks[0],
            };
            unroll!(GROUP < K.div_ceil(L::TAPS), {
                let from = self.origin.wrapping_offset(line * w + (GROUP * L::TAPS) as isize);
                // SAFETY: the processor has `L`'s features. Rows of columns that all lie inside may be loaded whole, and so
                // may those within the slice, as `WHOLE` ones are; of others, the bytes of the row or the pair of rows.
                let x = unsafe {
                    if !inside {
                        self.outside
                    } else if !EDGE {
                        L::windows::<SH>(from)
                    } else if within {
                        L::windows_edge::<SH>(from, masks[GROUP], self.outside)
                    } else {
                        let at = self.left + (GROUP * L::TAPS) as isize;
                        let first = if row < 0 { w } else { 0 };
                        let last = if rows == 1 || row + 1 == h { w } else { 2 * w };
                        let bytes = bits(first - at, last - at);
                        L::windows_some::<SH>(from, bytes, masks[GROUP], self.outside)
                    }
                };
                unroll!(I < Q, {
                    if I * SV + PHASE < K {
                        let at = (I * SV + PHASE) * K.div_ceil(L::TAPS) + GROUP;
                        // SAFETY: the processor has `L`'s features; all groups are packed.
                        sums[I] = unsafe {
                            let weights =
                                if K == 3 { self.held[at] } else { L::weights(*self.packed.add(at)) };
                            L::add(sums[I], x, weights)
                        };
                    }
                });
            });
        });
        sums
    }
}
