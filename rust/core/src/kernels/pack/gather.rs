//! What taps see, interleaved in fours as it is read: AVX-512 with VBMI.
//!
//! A strip of at most 64 pixels is one vector, so what a tap sees of a channel is a load or a few, and four of them are
//! interleaved without leaving the registers.

#![allow(unsafe_code, reason = "planes are read and a panel written through the pointers of the call")]

use std::arch::x86_64::*;

use super::{Gather, LANES_U8, Piece};

/// Columns of a register of fours.
const FOURS: usize = LANES_U8 / 4;

/// Lanes that one load gives.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// What to read, and which bytes of it.
    src: isize,
    read: u64,
    /// Which lanes it gives, and, where the stride is not one, by how much their indices are too large.
    lanes: u64,
    shift: u8,
}

/// `count` bits, at least one, from bit `first`.
fn bits(first: usize, count: usize) -> u64 {
    (u64::MAX >> (LANES_U8 - count)) << first
}

/// Appends the loads of a tap. Pieces that read on where the one before ended, as they do where the output is as wide as the
/// plane, are one.
fn loads_of(pieces: &[Piece], stride: usize, loads: &mut Vec<Load>) {
    let start = loads.len();
    for piece in pieces {
        let (first, len) = (usize::from(piece.first), usize::from(piece.len));
        if stride == 1 {
            let lanes = bits(first, len);
            match loads[start..].last_mut() {
                Some(load) if load.src == piece.src => {
                    load.lanes |= lanes;
                    load.read = load.lanes;
                }
                _ => loads.push(Load { src: piece.src, read: lanes, lanes, shift: 0 }),
            }
            continue;
        }
        // As many lanes as one vector reaches.
        let most = (LANES_U8 - 1) / stride + 1;
        for first in (first..first + len).step_by(most) {
            let lanes = most.min(usize::from(piece.first) + len - first);
            loads.push(Load {
                src: piece.src + (first * stride) as isize,
                read: bits(0, (lanes - 1) * stride + 1),
                lanes: bits(first, lanes),
                shift: (first * stride) as u8,
            });
        }
    }
}

/// # Safety
/// See [`RunGather`](super::RunGather); the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(in crate::kernels) unsafe fn gather(call: &Gather<'_>) {
    let Some(taps) = call.taps else {
        let lanes = bits(0, call.n.next_multiple_of(FOURS));
        // SAFETY: the caller's; rows are readable up to whole registers of columns.
        return unsafe { fill::<true>(call, &[Load { src: 0, read: lanes, lanes, shift: 0 }], &[1], 1) };
    };
    let count = taps.window.kernel[0] * taps.window.kernel[1];
    let (mut loads, mut ends) = (Vec::with_capacity(taps.pieces.len()), Vec::with_capacity(taps.ends.len()));
    for tap in 0..count {
        loads_of(taps.pieces(tap, 0), taps.stride(), &mut loads);
        ends.push(loads.len() as u32);
    }
    // SAFETY: the caller's; loads read what pieces name and bytes between them.
    unsafe {
        if taps.stride() == 1 {
            fill::<true>(call, &loads, &ends, 1);
        } else {
            fill::<false>(call, &loads, &ends, taps.stride());
        }
    }
}

/// Fills the panel; loads of tap `i` end at `ends[i]`.
///
/// # Safety
/// As [`gather`]; the loads are inside the planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn fill<const UNIT: bool>(call: &Gather<'_>, loads: &[Load], ends: &[u32], stride: usize) {
    let padding = _mm512_set1_epi8(call.padding.cast_signed());
    let indices: [u8; LANES_U8] = std::array::from_fn(|lane| lane.wrapping_mul(stride) as u8);
    // SAFETY: a register of bytes.
    let indices = unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) };
    let (mut tap, mut start, mut x) = (0, 0, call.x.cast::<i8>());
    let mut next = || {
        let mut row = padding;
        let end = ends[tap] as usize;
        for load in &loads[start..end] {
            let from = x.wrapping_offset(load.src);
            // SAFETY: a masked load reads the mask's bytes alone, which are inside the plane.
            row = unsafe {
                if UNIT {
                    _mm512_mask_loadu_epi8(row, load.lanes, from)
                } else {
                    let read = _mm512_maskz_loadu_epi8(load.read, from);
                    let indices = _mm512_sub_epi8(indices, _mm512_set1_epi8(load.shift.cast_signed()));
                    _mm512_mask_permutexvar_epi8(row, load.lanes, indices, read)
                }
            };
        }
        (tap, start) = (tap + 1, end);
        if tap == ends.len() {
            (tap, start, x) = (0, 0, x.wrapping_add(call.pitch));
        }
        row
    };
    let k = call.channels * ends.len();
    let registers = call.n.div_ceil(FOURS);
    for quad in 0..k.div_ceil(4) {
        let left = k - 4 * quad;
        let rows = if left >= 4 {
            [next(), next(), next(), next()]
        } else {
            std::array::from_fn(|i| if i < left { next() } else { padding })
        };
        let to = call.panel.wrapping_add(quad * 4 * LANES_U8);
        for (i, fours) in interleave(rows).into_iter().enumerate().take(registers) {
            // SAFETY: a group of the panel is four registers long.
            unsafe { _mm512_storeu_si512(to.add(i * LANES_U8).cast(), fours) };
        }
    }
}

/// Four rows of bytes as fours of bytes, sixteen columns a register.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
fn interleave(rows: [__m512i; 4]) -> [__m512i; 4] {
    // Unpacking takes the first half of every lane: lane `l` is given columns `4 l ..` of each sixteen.
    let lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let [a, b, c, d] = rows.map(|row| _mm512_permutexvar_epi32(lanes, row));
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ]
}
