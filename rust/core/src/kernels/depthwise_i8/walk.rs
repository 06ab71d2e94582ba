//! The loop nest of the vector tiers, over a tier's [`Lanes`]: that of `depthwise_f32`, with taps taken in groups.
//!
//! A *walk* goes down a column of the output one vector wide, visiting every input row once: what the row's windows are to
//! a group of taps is worked out once and added to all outputs in progress that the row is a tap of. A vector that hangs
//! over the edge of its row is loaded whole from the neighbouring rows, and what is foreign replaced by the zero point;
//! only what would leave the slice is loaded byte by byte.
//!
//! Where two rows fit in a vector, rows are taken in pairs: lanes `[0, w)` hold one row's outputs and `[w, 2w)` the next
//! row's, which is a walk with twice the vertical stride.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Channels;
use crate::kernels::strip_i8::{Output, Residual};
use crate::kernels::unroll::unroll;
use crate::kernels::window::Window2;
use std::hint::black_box;
use std::ops::Range;

/// A tier's vectors.
///
/// The *windows* of a group of taps are, for each of [`Self::N`] outputs, the bytes `from + lane·S + 0..TAPS`.
///
/// # Safety
/// Every method may be called only where the processor has the tier's features. `windows` and `windows_edge` read
/// [`Self::READ`]`[S - 1]` bytes, at most 64, `windows_some` those whose bit is set, which are neighbours; stores write `N` elements.
pub(super) trait Lanes {
    /// Outputs of a vector.
    const N: usize;
    /// Taps of a group, at most 4.
    const TAPS: usize;
    /// Bytes read for stride 1 and 2.
    const READ: [usize; 2];
    /// The windows of a group.
    type X: Copy;
    /// The weights of a group, for every lane.
    type W: Copy;
    /// Which bytes of windows are read, and which are the zero point.
    type M: Copy;
    /// Sums in i32.
    type Sums: Copy;
    /// Outputs before they are rounded.
    type Reals: Copy;
    /// One float32 in every lane.
    type F: Copy;
    /// A zero point for every output.
    type Z: Copy;

    /// A group's weights, zero where there are fewer, as `weights` wants them.
    fn pack(taps: [i8; 4]) -> i32;
    unsafe fn weights(packed: i32) -> Self::W;
    /// For each tap of a group, the lanes whose byte is read.
    unsafe fn mask<const S: usize>(lanes: [u32; 4]) -> Self::M;
    /// Windows of one byte value.
    unsafe fn constant(value: u8) -> Self::X;
    unsafe fn windows<const S: usize>(from: *const u8) -> Self::X;
    /// What the mask leaves out is taken from `outside`.
    unsafe fn windows_edge<const S: usize>(from: *const u8, mask: Self::M, outside: Self::X) -> Self::X;
    /// Neither what the mask leaves out nor bytes whose bit is not set are read.
    unsafe fn windows_some<const S: usize>(
        from: *const u8,
        bytes: u64,
        mask: Self::M,
        outside: Self::X,
    ) -> Self::X;
    unsafe fn sums(offset: i32) -> Self::Sums;
    unsafe fn add(sums: Self::Sums, x: Self::X, w: Self::W) -> Self::Sums;
    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn zero_point(value: u8) -> Self::Z;
    /// `f32(sums)·scale + bias`, of windows of stride `S`, in the order of the outputs.
    unsafe fn real<const S: usize>(sums: Self::Sums, scale: Self::F, bias: Self::F) -> Self::Reals;
    /// Adds a residual of `N` bytes.
    unsafe fn add_residual(reals: Self::Reals, from: *const u8, how: Residual) -> Self::Reals;
    /// `bounds` are those of the byte less the zero point.
    unsafe fn store_u8(to: *mut u8, reals: Self::Reals, bounds: [Self::F; 2], zero_point: Self::Z);
    unsafe fn store_f32(to: *mut f32, reals: Self::Reals, bounds: [Self::F; 2]);

    /// Adds a residual to the first `lanes` outputs, which is all that is read.
    #[inline(always)]
    unsafe fn add_residual_some(
        reals: Self::Reals,
        from: *const u8,
        how: Residual,
        lanes: usize,
    ) -> Self::Reals {
        let mut bytes = [0; WIDEST];
        // SAFETY: the caller's; a vector is no more than `WIDEST`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), lanes);
            Self::add_residual(reals, bytes.as_ptr(), how)
        }
    }
    /// Stores the first `lanes` outputs.
    #[inline(always)]
    unsafe fn store_u8_some(
        to: *mut u8,
        reals: Self::Reals,
        bounds: [Self::F; 2],
        zero_point: Self::Z,
        lanes: usize,
    ) {
        let mut bytes = [0; WIDEST];
        // SAFETY: the caller's; a vector is no more than `WIDEST`.
        unsafe {
            Self::store_u8(bytes.as_mut_ptr(), reals, bounds, zero_point);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, lanes);
        }
    }
    /// Stores the first `lanes` outputs.
    #[inline(always)]
    unsafe fn store_f32_some(to: *mut f32, reals: Self::Reals, bounds: [Self::F; 2], lanes: usize) {
        let mut floats = [0.0; WIDEST];
        // SAFETY: the caller's; a vector is no more than `WIDEST`.
        unsafe {
            Self::store_f32(floats.as_mut_ptr(), reals, bounds);
            std::ptr::copy_nonoverlapping(floats.as_ptr(), to, lanes);
        }
    }
}

/// Most outputs of a vector of any tier.
const WIDEST: usize = 32;

/// Most steps of a walk before it moves on to the next column, as in `depthwise_f32`.
const BAND: usize = 112;

/// Bytes of input walked block by block before the next channels: half of the smallest first-level cache, 32 KiB.
const GROUP: usize = 16 << 10;

/// The bits `[from, to)`.
fn bits(from: isize, to: isize) -> u64 {
    let (from, to) = (from.clamp(0, 64), to.clamp(0, 64));
    if from >= to { 0 } else { (u64::MAX >> (64 - (to - from))) << from }
}

/// The bytes from `from` whose bit is set; `outside` for the others.
///
/// # Safety
/// Those bytes are readable.
pub(super) unsafe fn gather(from: *const u8, bytes: u64, outside: u8) -> [u8; 64] {
    let mut row = [outside; 64];
    if bytes != 0 {
        // The bits are a range.
        let (first, count) = (bytes.trailing_zeros() as usize, bytes.count_ones() as usize);
        // SAFETY: the caller's; 64 bits have no more than 64 ones.
        unsafe {
            std::ptr::copy_nonoverlapping(from.wrapping_add(first), row.as_mut_ptr().add(first), count);
        };
    }
    row
}

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
            (_, [_, 1]) => taps::<L, 1>(run, out),
            (_, [_, 2]) => taps::<L, 2>(run, out),
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
    let window = run.window;
    let rows = SV / SH;
    let steps = window.oh.div_ceil(rows);
    let channels = run.requant.offset.len();
    // With several bands a channel is finished before the next one starts: what its last row writes past the plane may be
    // the start of the next plane's first.
    let fitting = GROUP / (window.h * window.w).max(1);
    let group = if steps <= BAND { fitting.max(1) } else { 1 };
    for first in (0..channels).step_by(group) {
        for band in (0..steps).step_by(BAND) {
            for block in 0..window.ow.div_ceil(L::N) {
                // The last block is moved left to end with the row, so that only a plane narrower than a vector has
                // idle lanes.
                let column = (block * L::N).min(window.ow.saturating_sub(L::N));
                let left = (column * SH) as isize - window.pad[1] as isize;
                let inside = left >= 0 && left as usize + reach::<L, K, SH>() <= window.w;
                let part = Part { column, left, first: band, last: steps.min(band + BAND) };
                let some = first..channels.min(first + group);
                // SAFETY: the caller's; `inside` says that no vector leaves its row.
                unsafe {
                    if inside && rows == 1 {
                        descend::<L, K, Q, SV, SH, false>(run, out, &part, some);
                    } else {
                        descend::<L, K, Q, SV, SH, true>(run, out, &part, some);
                    }
                }
            }
        }
    }
}

/// Bytes that the groups of a row of taps read, from the first lane's first.
const fn reach<L: Lanes, const K: usize, const SH: usize>() -> usize {
    (K - 1) / L::TAPS * L::TAPS + L::READ[SH - 1]
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
            // Rows whose vectors are loaded whole: their lanes are rows of the plane, and they stay in the slice.
            let start = (channel * run.x_pitch) as isize + part.left;
            let last = h - rows as isize;
            let after = run.x.len() as isize - reach::<L, K, SH>() as isize - start;
            let from = if !EDGE || start >= 0 { 0 } else { (w - 1 - start) / w.max(1) };
            let to = if !EDGE || last * w <= after { last + 1 } else { (after + w).max(0) / w.max(1) };
            // Steps all whose rows are, and whose output may be stored whole: near the end of the slice it may not.
            let fits = Place::new(run, channel, window.oh * window.ow).fits::<L>(run, out);
            let close = if fits { 0 } else { 2 + L::N / (rows * window.ow) };
            let step = |row: isize| ((row + top) / SV as isize).max(0) as usize;
            let steps = part.first..part.last + Q - 1;
            let head = step(from + SV as isize - 1).clamp(steps.start, steps.end);
            let tail = step(to).min(steps.end.saturating_sub(close)).max(head);

            let weights = &run.weights[channel * K * K..][..K * K];
            let mut packed = [0; 49];
            unroll!(TY < K, {
                unroll!(GROUP < K.div_ceil(L::TAPS), {
                    let tap = |i: usize| match GROUP * L::TAPS + i {
                        tx if i < L::TAPS && tx < K => weights[TY * K + tx],
                        _ => 0,
                    };
                    packed[TY * K.div_ceil(L::TAPS) + GROUP] = L::pack([tap(0), tap(1), tap(2), tap(3)]);
                });
            });
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
            let finish = Finish::<L>::new(run, channel);
            let mut sums = [column.offset; Q];
            let mut place = Place::new(run, channel, part.first * rows * window.ow + part.column);
            let emits = part.first + Q - 1;
            let lanes = |step: usize| match rows {
                2 => window.ow * (window.oh - (step + 1 - Q) * 2).min(2),
                _ => window.ow - part.column,
            };
            for step in steps.start..head {
                sums = column.advance::<Q, SV, SH, EDGE, false>(sums, step);
                if step >= emits {
                    let whole = place.fits::<L>(run, out);
                    finish.store::<SH>(out, sums[Q - 1], &place, lanes(step), whole);
                    place.skip(rows * window.ow);
                }
            }
            for step in head..tail {
                sums = column.advance::<Q, SV, SH, EDGE, true>(sums, step);
                if step >= emits {
                    finish.store::<SH>(out, sums[Q - 1], &place, L::N, true);
                    place.skip(rows * window.ow);
                }
            }
            for step in tail..steps.end {
                sums = column.advance::<Q, SV, SH, EDGE, false>(sums, step);
                if step >= emits {
                    let whole = place.fits::<L>(run, out);
                    finish.store::<SH>(out, sums[Q - 1], &place, lanes(step), whole);
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

/// Where a vector's outputs lie: elements of the output and of the residual.
struct Place {
    out: usize,
    residual: usize,
}

impl Place {
    /// Element `at` of a channel's plane.
    fn new(run: &Channels<'_>, channel: usize, at: usize) -> Place {
        Place { out: channel * run.out_pitch + at, residual: channel * run.residual_pitch + at }
    }

    fn skip(&mut self, elements: usize) {
        self.out += elements;
        self.residual += elements;
    }

    /// Whether the slices have a whole vector here.
    fn fits<L: Lanes>(&self, run: &Channels<'_>, out: &[u8]) -> bool {
        let residual = run.requant.residual.is_none() || self.residual + L::N <= run.residual.len();
        residual && self.out + L::N <= out.len() / run.size()
    }
}

/// What is done to a channel's sums.
struct Finish<'a, L: Lanes> {
    scale: L::F,
    bias: L::F,
    residual: Option<(&'a [u8], Residual)>,
    bytes: bool,
    /// Of the float, or of the byte less its zero point.
    bounds: [L::F; 2],
    zero_point: L::Z,
}

impl<'a, L: Lanes> Finish<'a, L> {
    /// # Safety
    /// The processor has `L`'s features.
    #[inline(always)]
    unsafe fn new(run: &Channels<'a>, channel: usize) -> Finish<'a, L> {
        let requant = &run.requant;
        let (zero, bounds) = match requant.output {
            Output::U8 { zero_point, lo, hi } => {
                (zero_point, [lo, hi].map(|q| (i32::from(q) - i32::from(zero_point)) as f32))
            }
            Output::F32 { lo, hi } => (0, [lo, hi]),
        };
        // SAFETY: the caller's.
        unsafe {
            Finish {
                scale: L::splat(requant.scale[channel]),
                bias: L::splat(requant.bias[channel]),
                residual: requant.residual.map(|how| (run.residual, how)),
                bytes: matches!(requant.output, Output::U8 { .. }),
                bounds: bounds.map(|bound| L::splat(bound)),
                zero_point: L::zero_point(zero),
            }
        }
    }

    /// Stores what `lanes` sums become, or all: what a vector writes beyond them is the start of a row that comes later,
    /// or lies after the plane.
    ///
    /// # Safety
    /// The processor has `L`'s features, `out` and the residual are those that `check` passed, the first `min(lanes, N)`
    /// elements are a plane's, and where `whole` the slices have `N` elements there.
    #[inline(always)]
    unsafe fn store<const S: usize>(
        &self,
        out: &mut [u8],
        sums: L::Sums,
        place: &Place,
        lanes: usize,
        whole: bool,
    ) {
        let lanes = lanes.min(L::N);
        let (bounds, zero_point) = (self.bounds, self.zero_point);
        // SAFETY: whole vectors are loaded and stored only where the slice has room for them.
        unsafe {
            let mut reals = L::real::<S>(sums, self.scale, self.bias);
            if let Some((residual, how)) = self.residual {
                let from = residual.as_ptr().add(place.residual);
                reals = if whole {
                    L::add_residual(reals, from, how)
                } else {
                    L::add_residual_some(reals, from, how, lanes)
                };
            }
            let (bytes, floats) = (out.as_mut_ptr(), out.as_mut_ptr().cast::<f32>());
            match (self.bytes, whole) {
                (true, true) => L::store_u8(bytes.add(place.out), reals, bounds, zero_point),
                (true, false) => L::store_u8_some(bytes.add(place.out), reals, bounds, zero_point, lanes),
                (false, true) => L::store_f32(floats.add(place.out), reals, bounds),
                (false, false) => L::store_f32_some(floats.add(place.out), reals, bounds, lanes),
            }
        }
    }
}

/// Any kernel and dilation, horizontal stride `S`: a vector at a time, group by group.
///
/// # Safety
/// The processor has the features of `L`; `run.check` passed; the horizontal stride is `S`.
#[inline(always)]
unsafe fn taps<L: Lanes, const S: usize>(run: &Channels<'_>, out: &mut [u8]) {
    let window = run.window;
    let [tall, wide] = window.kernel;
    // Taps that are not neighbours are groups of one.
    let together = if window.dilation[1] == 1 { L::TAPS } else { 1 };
    // SAFETY: as in `walk`; vectors are loaded whole only where they lie inside the row.
    unsafe {
        let (all, outside) = (L::mask::<S>([u32::MAX; 4]), L::constant(run.x_zero_point));
        for channel in 0..run.requant.offset.len() {
            let finish = Finish::<L>::new(run, channel);
            let plane = run.x.as_ptr().add(channel * run.x_pitch);
            let weights = &run.weights[channel * tall * wide..][..tall * wide];
            for oy in 0..window.oh {
                let (rows, first) = window.taps_of_row(oy);
                for column in (0..window.ow).step_by(L::N) {
                    let mut sums = L::sums(run.requant.offset[channel]);
                    for ty in 0..tall {
                        let line = first + ty.saturating_sub(rows.start) * window.dilation[0];
                        for (group, taps) in weights[ty * wide..][..wide].chunks(together).enumerate() {
                            let at = (column * S + group * together * window.dilation[1]) as isize
                                - window.pad[1] as isize;
                            let from = plane.wrapping_offset((line * window.w) as isize + at);
                            let x = if !rows.contains(&ty) {
                                outside
                            } else if at >= 0 && at as usize + L::READ[S - 1] <= window.w {
                                L::windows::<S>(from)
                            } else {
                                L::windows_some::<S>(from, bits(-at, window.w as isize - at), all, outside)
                            };
                            let mut group = [0; 4];
                            group[..taps.len()].copy_from_slice(taps);
                            sums = L::add(sums, x, L::weights(L::pack(group)));
                        }
                    }
                    let place = Place::new(run, channel, oy * window.ow + column);
                    let whole = place.fits::<L>(run, out);
                    finish.store::<S>(out, sums, &place, window.ow - column, whole);
                }
            }
        }
    }
}
