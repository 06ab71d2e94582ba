//! What taps that lie side by side see, as it is read: AVX-512 with VBMI.
//!
//! Four taps of a row of a window see four bytes that follow each other, so sixteen columns of a group of four are one load
//! and one permutation, whatever the stride: no channels are interleaved.

#![allow(unsafe_code, reason = "planes are read and a panel written through the pointers of the call")]

use std::arch::x86_64::*;

use super::{Beside, LANES_U8};
use crate::weight::QUAD;

/// Columns of a register of fours.
const FOURS: usize = LANES_U8 / QUAD;

/// What some columns of a register see of a row of the plane.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// The row that the window's first sees.
    y: isize,
    /// The column of byte 0 of the load; may lie before the plane, the bytes that are read do not.
    x: isize,
    /// The bytes that are read, and those that they are for.
    bytes: u64,
    lanes: u64,
}

/// `count` bits, at least one, from bit `first`.
fn bits(first: usize, count: usize) -> u64 {
    (u64::MAX >> (u64::BITS as usize - count)) << first
}

/// Appends the reads of part `part` of a row of taps, and where those of each register of columns end.
fn reads_of(call: &Beside<'_>, part: usize, reads: &mut Vec<Read>, ends: &mut Vec<usize>) {
    let window = call.window;
    let (ow, stride) = (window.ow, window.stride);
    let (mut oy, mut ox) = (call.p0 / ow, call.p0 % ow);
    for register in (0..call.n).step_by(FOURS) {
        let (mut lane, last) = (0, FOURS.min(call.n - register));
        while lane < last {
            let len = (last - lane).min(ow - ox);
            let x = (ox * stride[1] + part * QUAD) as isize - (window.pad[1] + lane * stride[1]) as isize;
            let end = (window.w as isize - x).clamp(0, LANES_U8 as isize) as usize;
            let from = (lane * stride[1]).max(x.min(0).unsigned_abs());
            let to = ((lane + len - 1) * stride[1] + QUAD).min(end);
            if from < to {
                let y = (oy * stride[0]) as isize - window.pad[0] as isize;
                reads.push(Read { y, x, bytes: bits(from, to - from), lanes: bits(lane * QUAD, len * QUAD) });
            }
            (lane, ox) = (lane + len, ox + len);
            if ox == ow {
                (oy, ox) = (oy + 1, 0);
            }
        }
        ends.push(reads.len());
    }
}

/// # Safety
/// See [`RunBeside`](super::RunBeside); the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(in crate::kernels) unsafe fn beside(call: &Beside<'_>) {
    let window = call.window;
    let (parts, registers) = (window.kernel[1].div_ceil(QUAD), call.n.div_ceil(FOURS));
    let (mut reads, mut ends) =
        (Vec::with_capacity(parts * (registers + 4)), Vec::with_capacity(parts * registers));
    for part in 0..parts {
        reads_of(call, part, &mut reads, &mut ends);
    }
    let stride = window.stride[1];
    let indices: [u8; LANES_U8] = std::array::from_fn(|i| (i / QUAD * stride + i % QUAD) as u8);
    // SAFETY: a register of bytes.
    let indices = unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) };
    let padding = _mm512_set1_epi8(call.padding.cast_signed());
    let mut group = call.panel;
    for channel in 0..call.channels {
        let plane = call.x.wrapping_add(channel * call.pitch).cast::<i8>();
        for ty in 0..window.kernel[0] {
            let down = (ty * window.dilation[0]) as isize;
            let mut start = 0;
            for ends in ends.chunks(registers) {
                for (register, &end) in ends.iter().enumerate() {
                    let mut row = padding;
                    for read in &reads[start..end] {
                        let y = read.y + down;
                        if y < 0 || y >= window.h as isize {
                            continue;
                        }
                        let from = plane.wrapping_offset(y * window.w as isize + read.x);
                        // SAFETY: a masked load reads the mask's bytes alone, which are inside the row.
                        let bytes = unsafe { _mm512_mask_loadu_epi8(padding, read.bytes, from) };
                        row = _mm512_mask_permutexvar_epi8(row, read.lanes, indices, bytes);
                    }
                    start = end;
                    // SAFETY: the panel has every group, and a group four registers.
                    unsafe { _mm512_storeu_si512(group.add(register * LANES_U8).cast(), row) };
                }
                group = group.wrapping_add(QUAD * LANES_U8);
            }
        }
    }
}
