//! The loop nest of square kernels without dilation: over a copy of the plane that has its padding.
//!
//! A copy costs a load and a store where a vector of outputs costs tens of instructions, and spares everything that edges
//! would: every window lies inside the copy. Rows of the copy lie a *gap* apart that is the padding on the right of one row
//! and on the left of the next. With stride 1 the copy is one long row to the taps: its outputs are computed as such, those
//! of the gaps too, so that vectors are full however narrow the plane is. Outputs go to scratch and from there, without the
//! gaps, to their plane. Planes that are larger than the scratch are taken in bands of rows.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Channels;
use super::lanes::{Finish, Lanes, Place, pack_kernel};
use crate::kernels::unroll::unroll;
use crate::kernels::window::Window2;
use std::hint::black_box;
use std::ops::Range;

/// Bytes of each part of the scratch: where nothing is added, together half of the smallest first-level cache, 32 KiB.
const ROOM: usize = 4 << 10;

/// Bytes after the copy that vectors may read, elements after a band's outputs that vectors and chunks may write.
const SLACK: usize = 128;

/// The widest gap: what one store of a register fills.
const GAP: usize = 8;

/// Vectors whose sums are made before the first is stored: making them and storing them are long chains of instructions each,
/// of which the processor sees few at a time, so that neighbours in the program had better be independent.
const TOGETHER: usize = 8;

/// Two parts of the scratch.
#[repr(C, align(64))]
struct Parts([[u8; ROOM]; 2]);

/// Computes a run of channels, or returns `false` where this nest is not for its window.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes>(run: &Channels<'_>, out: &mut [u8]) -> bool {
    let Window2 { kernel: [k, columns], stride: [_, stride], dilation, .. } = *run.window;
    if k != columns || dilation != [1, 1] {
        return false;
    }
    run.check(out);
    // SAFETY: the caller's; `run.check` passed.
    unsafe {
        match (k, stride) {
            (3, 1) => planes::<L, 3, 1>(run, out),
            (3, 2) => planes::<L, 3, 2>(run, out),
            (5, 1) => planes::<L, 5, 1>(run, out),
            (5, 2) => planes::<L, 5, 2>(run, out),
            (7, 1) => planes::<L, 7, 1>(run, out),
            (7, 2) => planes::<L, 7, 2>(run, out),
            _ => false,
        }
    }
}

/// How a plane lies in the scratch.
struct Plan {
    /// Bytes before the first row and between rows.
    gap: usize,
    /// Bytes from one row of the copy to the next.
    pitch: usize,
    /// Whether all outputs of a band are one row.
    flat: bool,
    /// Outputs from one row to the next, gaps included.
    apart: usize,
    /// Rows of outputs of a band.
    rows: usize,
}

impl Plan {
    /// Of vectors of `n` outputs of `size` bytes; none where the gaps are too wide, or a row too long.
    fn new(window: &Window2, (k, n, size): (usize, usize, usize)) -> Option<Plan> {
        let Window2 { w, oh, ow, stride, pad, .. } = *window;
        let reach = ow.saturating_sub(1) * stride[1] + k;
        let gap = pad[1].max(reach.saturating_sub(pad[1] + w));
        let pitch = w + gap;
        let flat = stride == [1, 1];
        let apart = if flat { pitch } else { ow.next_multiple_of(n) };
        let read = (ROOM - SLACK - GAP) / pitch.max(1);
        let written = (ROOM / size - SLACK) / apart.max(1);
        let rows = (read.checked_sub(k)? / stride[0] + 1).min(written).min(oh);
        (gap <= GAP && rows > 0).then_some(Plan { gap, pitch, flat, apart, rows })
    }
}

/// A `K`×`K` kernel of horizontal stride `S`.
///
/// # Safety
/// As for [`run`]; `run.check` passed; the window is of that kernel and stride.
#[inline(always)]
unsafe fn planes<L: Lanes, const K: usize, const S: usize>(run: &Channels<'_>, out: &mut [u8]) -> bool {
    let (window, size) = (run.window, run.size());
    let Some(plan) = Plan::new(window, (K, L::N, size)) else { return false };
    let Window2 { oh, ow, stride: [down, _], .. } = *window;
    let bands = oh.div_ceil(plan.rows);
    let jobs = run.requant.offset.len() * bands;
    // A channel, its first row, and rows.
    let job = |i: usize| {
        let (channel, first) = if bands == 1 { (i, 0) } else { (i / bands, i % bands * plan.rows) };
        (channel, first, plan.rows.min(oh - first))
    };
    // Two of each: what was just stored is not loaded at once, since loads of what several stores have in the making wait
    // until those are done.
    let (mut input, mut output) = (Parts([[0; ROOM]; 2]), Parts([[0; ROOM]; 2]));
    let mut some;
    let addend: &mut [[u8; ROOM]] = if run.requant.residual.is_some() {
        some = Parts([[0; ROOM]; 2]);
        &mut some.0
    } else {
        &mut []
    };
    for i in 0..jobs + 2 {
        if i < jobs {
            let (channel, first, rows) = job(i);
            let seen = first * down..(first + rows - 1) * down + K;
            copy_in(run, channel, seen, &plan, &mut input.0[i % 2]);
            if let Some(addend) = addend.get_mut(i % 2) {
                let from = &run.residual[channel * run.residual_pitch + first * ow..];
                copy_rows((from, ow), (addend, plan.apart), rows, ow, None);
            }
        }
        if (1..=jobs).contains(&i) {
            let (channel, _, rows) = job(i - 1);
            let side = (i - 1) % 2;
            let addend = addend.get(side).map_or(&[][..], |addend| addend);
            // SAFETY: the caller's; the input has been copied.
            unsafe {
                band::<L, K, S>(run, channel, rows, &plan, &input.0[side], addend, &mut output.0[side]);
            }
        }
        if i >= 2 {
            let (channel, first, rows) = job(i - 2);
            let to = &mut out[(channel * run.out_pitch + first * ow) * size..];
            copy_rows((&output.0[i % 2], plan.apart * size), (to, ow * size), rows, ow * size, None);
        }
    }
    true
}

/// Computes so many rows of a channel's outputs from the copy of what they see and the copy of their residual.
///
/// # Safety
/// As for [`planes`]; the input was copied as planned for so many rows.
#[inline(always)]
unsafe fn band<L: Lanes, const K: usize, const S: usize>(
    run: &Channels<'_>,
    channel: usize,
    rows: usize,
    plan: &Plan,
    input: &[u8; ROOM],
    addend: &[u8],
    output: &mut [u8; ROOM],
) {
    let Window2 { ow, stride: [down, _], pad: [_, left], .. } = *run.window;
    let packed = pack_kernel::<L, K>(run, channel);
    // Opaque, so that what does not fit in registers is read where it lies rather than moved about.
    let packed = if K == 3 { packed.as_ptr() } else { black_box(packed.as_ptr()) };
    // SAFETY: the processor has the features of `L`. `Plan::new` found room for what the rows of outputs read and for what
    // they write, in vectors, gaps included: both are less than `SLACK` beyond the last row.
    unsafe {
        let finish = Finish::<L>::new(run, channel, addend);
        let offset = L::sums(run.requant.offset[channel]);
        let origin = input.as_ptr().add(plan.gap - left);
        let (runs, len) = if plan.flat { (1, (rows - 1) * plan.pitch + ow) } else { (rows, ow) };
        let vectors = len.div_ceil(L::N);
        let place = |vector: usize| match runs {
            1 => (0, vector * L::N),
            _ => (vector / vectors, vector % vectors * L::N),
        };
        for first in (0..runs * vectors).step_by(TOGETHER) {
            let last = (first + TOGETHER).min(runs * vectors);
            let mut together = [offset; TOGETHER];
            let (mut row, mut column) = place(first);
            for sums in &mut together[..last - first] {
                let from = origin.add(row * down * plan.pitch + column * S);
                unroll!(TY < K, {
                    unroll!(GROUP < K.div_ceil(L::TAPS), {
                        let x = L::windows::<S>(from.add(TY * plan.pitch + GROUP * L::TAPS));
                        let w = L::weights(*packed.add(TY * K.div_ceil(L::TAPS) + GROUP));
                        *sums = L::add(*sums, x, w);
                    });
                });
                (row, column) = if column + L::N < len { (row, column + L::N) } else { (row + 1, 0) };
            }
            (row, column) = place(first);
            for &sums in &together[..last - first] {
                let at = row * plan.apart + column;
                finish.store::<S>(output, sums, &Place { out: at, residual: at }, L::N, true);
                (row, column) = if column + L::N < len { (row, column + L::N) } else { (row + 1, 0) };
            }
        }
    }
}

/// Copies the rows of a channel's plane that windows see, counted from the first row of padding, with what is around them.
#[inline(always)]
fn copy_in(run: &Channels<'_>, channel: usize, rows: Range<usize>, plan: &Plan, to: &mut [u8; ROOM]) {
    let Window2 { h, w, pad: [top, _], .. } = *run.window;
    let Plan { gap, pitch, .. } = *plan;
    let inside = |row: usize| row.clamp(top, top + h);
    let (first, last) = (inside(rows.start), inside(rows.end));
    // Rows may all lie above the plane or below it.
    let start = gap + first.saturating_sub(rows.start).min(rows.len()) * pitch;
    let end = start + (last - first) * pitch;
    fill(&mut to[..start + CHUNK], run.x_zero_point);
    let from = &run.x[channel * run.x_pitch + (first - top) * w..];
    copy_rows((from, w), (&mut to[start..], pitch), last - first, w, Some([run.x_zero_point; GAP]));
    fill(&mut to[end..gap + rows.len() * pitch + SLACK], run.x_zero_point);
}

/// What is filled or copied at once.
const CHUNK: usize = 32;

/// Fills chunks, of which the last may be left out in part.
#[inline(always)]
fn fill(to: &mut [u8], value: u8) {
    for chunk in to.as_chunks_mut::<CHUNK>().0 {
        *chunk = [value; CHUNK];
    }
}

/// Copies rows of `len` bytes, each side's so many bytes apart, from the first to the last, and writes `after` behind each.
/// Where there is room, more than a row is copied: the next row, or nothing, has to lie there.
#[inline(always)]
fn copy_rows(
    from: (&[u8], usize),
    to: (&mut [u8], usize),
    rows: usize,
    len: usize,
    after: Option<[u8; GAP]>,
) {
    if len <= CHUNK / 2 {
        copy_chunks::<{ CHUNK / 2 }>(from, to, rows, len, after);
    } else {
        copy_chunks::<CHUNK>(from, to, rows, len, after);
    }
}

#[inline(always)]
fn copy_chunks<const N: usize>(
    (from, from_pitch): (&[u8], usize),
    (to, to_pitch): (&mut [u8], usize),
    rows: usize,
    len: usize,
    after: Option<[u8; GAP]>,
) {
    let whole = len.next_multiple_of(N);
    let last = rows.saturating_sub(1);
    if last * from_pitch + whole <= from.len() && last * to_pitch + whole.max(len + GAP) <= to.len() {
        let (mut from, mut to) = (from.as_ptr(), to.as_mut_ptr());
        for _ in 0..rows {
            // SAFETY: even the last row's chunks, and what follows it, are in the slices.
            unsafe {
                for i in (0..whole).step_by(N) {
                    to.add(i).cast::<[u8; N]>().write(from.add(i).cast::<[u8; N]>().read());
                }
                if let Some(after) = after {
                    to.add(len).cast::<[u8; GAP]>().write(after);
                }
            }
            (from, to) = (from.wrapping_add(from_pitch), to.wrapping_add(to_pitch));
        }
        return;
    }
    for row in 0..rows {
        let to = &mut to[row * to_pitch..];
        to[..len].copy_from_slice(&from[row * from_pitch..][..len]);
        if let Some(after) = after {
            to[len..][..GAP].copy_from_slice(&after);
        }
    }
}
