//! What taps see, interleaved in fours as it is read: AVX-512 with VBMI.
//!
//! A strip of at most 64 pixels is one vector, so what a tap sees of a channel is a load or a few, and four of them are
//! interleaved without leaving the registers.

#![allow(unsafe_code, reason = "planes are read and a panel written through the pointers of the call")]

use std::arch::x86_64::*;

use super::{Gather, LANES_U8, Piece};
use crate::kernels::strip_i8::avx512::transposed;

/// Columns of a register of fours.
const FOURS: usize = LANES_U8 / 4;

/// Lanes that one load gives.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Where lane 0 would be read; may lie before the plane.
    src: isize,
    /// The bytes that are read, and the lanes they are for.
    read: u64,
    lanes: u64,
}

/// A load of nothing.
const NOTHING: Load = Load { src: 0, read: 0, lanes: 0 };

/// `count` bits, at least one, from bit `first`.
fn bits(first: usize, count: usize) -> u64 {
    (u64::MAX >> (LANES_U8 - count)) << first
}

/// The only load of a tap whose stride is one, if one does: pieces that read on where the one before ended, as they do where
/// the output is as wide as the plane, are one.
fn only(pieces: &[Piece]) -> Option<Load> {
    let Some(first) = pieces.first() else { return Some(NOTHING) };
    let lanes = pieces.iter().map(|piece| bits(piece.first.into(), piece.len.into())).fold(0, |a, b| a | b);
    pieces.iter().all(|piece| piece.src == first.src).then_some(Load { src: first.src, read: lanes, lanes })
}

/// Appends the loads of a tap, of as many lanes as one vector reaches: `reach` lanes from a multiple of it.
fn loads_of(pieces: &[Piece], stride: usize, reach: usize, loads: &mut Vec<Load>) {
    for piece in pieces {
        let (mut lane, end) = (usize::from(piece.first), usize::from(piece.first) + usize::from(piece.len));
        while lane < end {
            let base = lane / reach * reach;
            let count = (base + reach).min(end) - lane;
            let read = bits((lane - base) * stride, (count - 1) * stride + 1);
            loads.push(Load { src: piece.src + (base * stride) as isize, read, lanes: bits(lane, count) });
            lane += count;
        }
    }
}

/// # Safety
/// See [`RunGather`](super::RunGather); the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(in crate::kernels) unsafe fn gather(call: &Gather<'_>) {
    let Some(taps) = call.taps else {
        let lanes = bits(0, call.n.next_multiple_of(FOURS));
        let rows = std::array::from_fn::<_, 4, _>(|c| Row { src: (c * call.pitch) as isize, lanes });
        // SAFETY: the caller's; rows are readable up to whole registers of columns.
        return unsafe { fill_rows(call, &rows) };
    };
    let (count, stride) = (taps.window.kernel[0] * taps.window.kernel[1], taps.stride());
    if stride == 1 {
        let mut rows = Vec::with_capacity(4 * count);
        rows.extend(
            (0..count).map_while(|tap| {
                only(taps.pieces(tap, 0)).map(|load| Row { src: load.src, lanes: load.lanes })
            }),
        );
        if rows.len() == count {
            for at in 0..3 * count {
                let Row { src, lanes } = rows[at];
                rows.push(Row { src: src + call.pitch as isize, lanes });
            }
            // SAFETY: the caller's; rows read what pieces name.
            return unsafe { fill_rows(call, &rows) };
        }
    }
    let reach = (LANES_U8 / stride).max(1);
    let (mut loads, mut ends) =
        (Vec::with_capacity(2 * taps.pieces.len()), Vec::with_capacity(taps.ends.len()));
    for tap in 0..count {
        loads_of(taps.pieces(tap, 0), stride, reach, &mut loads);
        ends.push(loads.len() as u32);
    }
    // SAFETY: the caller's; loads read what pieces name and bytes between them.
    unsafe { fill(call, &loads, &ends, (stride, reach)) }
}

/// One load of the lanes of a row of the panel.
#[derive(Clone, Copy, Debug)]
struct Row {
    src: isize,
    lanes: u64,
}

/// Fills the panel where each of its rows is one load; `rows` are those of four channels, after which they repeat.
///
/// # Safety
/// As [`gather`]; the rows are inside the planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn fill_rows(call: &Gather<'_>, rows: &[Row]) {
    let padding = _mm512_set1_epi8(call.padding.cast_signed());
    let (mut x, mut panel) = (call.x.cast::<i8>(), Panel::new(call));
    // SAFETY: a masked load reads the mask's bytes alone, which are inside the plane; the panel has every group.
    unsafe {
        let read =
            |x: *const i8, row: &Row| _mm512_mask_loadu_epi8(padding, row.lanes, x.wrapping_offset(row.src));
        for _ in 0..call.channels / 4 {
            for quad in rows.as_chunks::<4>().0 {
                panel.push([read(x, &quad[0]), read(x, &quad[1]), read(x, &quad[2]), read(x, &quad[3])]);
            }
            x = x.wrapping_add(4 * call.pitch);
        }
        for quad in rows[..rows.len() / 4 * (call.channels % 4)].chunks(4) {
            panel.push(std::array::from_fn(|i| quad.get(i).map_or(padding, |row| read(x, row))));
        }
    }
}

/// Fills the panel where a row may be several loads, which for tap `i` end at `ends[i]`.
///
/// # Safety
/// As [`gather`]; the loads are inside the planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn fill(call: &Gather<'_>, loads: &[Load], ends: &[u32], (stride, reach): (usize, usize)) {
    let padding = _mm512_set1_epi8(call.padding.cast_signed());
    let indices: [u8; LANES_U8] = std::array::from_fn(|lane| (lane % reach * stride) as u8);
    // SAFETY: a register of bytes.
    let indices = unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) };
    let (mut tap, mut start, mut x) = (0, 0, call.x.cast::<i8>());
    let mut next = || {
        let mut row = padding;
        let end = ends[tap] as usize;
        for load in &loads[start..end] {
            // SAFETY: a masked load reads the mask's bytes alone, which are inside the plane.
            let read = unsafe { _mm512_maskz_loadu_epi8(load.read, x.wrapping_offset(load.src)) };
            row = _mm512_mask_permutexvar_epi8(row, load.lanes, indices, read);
        }
        (tap, start) = (tap + 1, end);
        if tap == ends.len() {
            (tap, start, x) = (0, 0, x.wrapping_add(call.pitch));
        }
        row
    };
    let (k, mut panel) = (call.channels * ends.len(), Panel::new(call));
    // SAFETY: the panel has every group.
    unsafe {
        for _ in 0..k / 4 {
            panel.push([next(), next(), next(), next()]);
        }
        if !k.is_multiple_of(4) {
            panel.push(std::array::from_fn(|i| if i < k % 4 { next() } else { padding }));
        }
    }
}

/// Where the next group of a panel goes, and how many registers of it.
struct Panel {
    to: *mut u8,
    registers: usize,
    transposed: __m512i,
}

impl Panel {
    #[target_feature(enable = "avx512f")]
    fn new(call: &Gather<'_>) -> Panel {
        Panel { to: call.panel, registers: call.n.div_ceil(FOURS), transposed: transposed() }
    }

    /// Appends four rows of bytes as fours of bytes, sixteen columns a register.
    ///
    /// # Safety
    /// The panel has room for another group.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    #[inline]
    unsafe fn push(&mut self, rows: [__m512i; 4]) {
        // Unpacking takes the first half of every lane: lane `l` is given columns `4 l ..` of each sixteen.
        let [a, b, c, d] = rows.map(|row| _mm512_permutexvar_epi32(self.transposed, row));
        let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
        let fours = [
            _mm512_unpacklo_epi16(ab, cd),
            _mm512_unpackhi_epi16(ab, cd),
            _mm512_unpacklo_epi16(ab_high, cd_high),
            _mm512_unpackhi_epi16(ab_high, cd_high),
        ];
        for (i, fours) in fours.into_iter().enumerate() {
            if i < self.registers {
                // SAFETY: a group of the panel is four registers long.
                unsafe { _mm512_storeu_si512(self.to.add(i * LANES_U8).cast(), fours) };
            }
        }
        self.to = self.to.wrapping_add(4 * LANES_U8);
    }
}
