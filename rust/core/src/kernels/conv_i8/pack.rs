//! Packing of an image: AVX-512 with VBMI.
//!
//! Sixty-four pixels of the image, in as many rows as they take, are one run of bytes of a plane with the padding left out:
//! a load and a permutation, the same in every channel. Sixty-four channels of them are a square of bytes, which is
//! transposed.

#![allow(unsafe_code, reason = "planes are read and an image written through the pointers of the call")]

use std::arch::x86_64::*;

use super::{DEPTH, Pack};
use crate::kernels::strip_i8::NR;
use crate::weight::QUAD;

/// What some pixels of the image are in every plane.
struct Run {
    /// The first byte that is read; the plane has it, where any is.
    from: usize,
    /// The bytes that are read.
    read: __mmask64,
    /// The pixels that lie inside the plane, and the byte of each.
    inside: __mmask64,
    bytes: __m512i,
}

impl Run {
    /// Pixels `at..at + 64` of a band whose first row is row `first` of the padded input; those of rows from `rows` on are
    /// anything.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(call: &Pack<'_>, first: usize, rows: usize, at: usize) -> Run {
        let (packing, window) = (call.packing, &call.packing.window);
        let (mut y, mut x) = (at / packing.width, at % packing.width);
        let (mut from, mut last, mut inside) = (None, 0, 0);
        let mut bytes = [0u8; NR];
        let mut lane = 0;
        while lane < NR && y < rows {
            let len = (packing.width - x).min(NR - lane);
            let row = (first + y).wrapping_sub(window.pad[0]);
            // Columns of this row that the plane has, and where they are.
            let start = x.max(window.pad[1]);
            let end = (x + len).min(window.pad[1] + window.w);
            if row < window.h && start < end {
                let source = row * window.w + start - window.pad[1];
                let from = *from.get_or_insert(source);
                last = source + end - start - from;
                for i in 0..end - start {
                    bytes[lane + start - x + i] = (source - from + i) as u8;
                }
                inside |= (u64::MAX >> (NR - (end - start))) << (lane + start - x);
            }
            (lane, y, x) = (lane + len, y + 1, 0);
        }
        // SAFETY: a register of bytes.
        let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let read = if last == 0 { 0 } else { u64::MAX >> (NR - last) };
        Run { from: from.unwrap_or(0), read, inside, bytes }
    }
}

/// # Safety
/// See [`RunPack`](super::RunPack); the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) unsafe fn pack(call: &Pack<'_>) {
    let packing = call.packing;
    let first = call.rows.0 * packing.window.stride[0];
    let rows = packing.rows(call.rows.1 - call.rows.0);
    let padding = _mm512_set1_epi8(call.padding.cast_signed());
    for at in (0..rows * packing.width).step_by(NR) {
        let run = Run::new(call, first, rows, at);
        for block in 0..packing.blocks {
            let channel = block * packing.quads * QUAD;
            let to = call.image.wrapping_add(block * packing.apart + at * DEPTH);
            // A channel beyond the last is multiplied by weights that are zero.
            let read = |c: usize| {
                let plane = (channel + c).min(packing.channels - 1) * call.pitch;
                // SAFETY: a masked load reads the mask's bytes alone, which are inside the plane.
                let bytes = unsafe {
                    _mm512_maskz_loadu_epi8(run.read, call.x.wrapping_add(plane + run.from).cast())
                };
                _mm512_mask_permutexvar_epi8(padding, run.inside, run.bytes, bytes)
            };
            // SAFETY: an image has whole vectors of pixels.
            unsafe { transpose(packing.quads, read, to.cast()) };
        }
    }
}

/// Stores 64 pixels of 64 bytes: byte `c` of pixel `i` is byte `i` of `read(c)`, for `c` in the first `quads` fours; others
/// are anything.
///
/// # Safety
/// `to` is writable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn transpose(quads: usize, read: impl Fn(usize) -> __m512i, to: *mut __m512i) {
    let zero = _mm512_setzero_si512();
    // Sixteen channels at a time: register `4 j + i` has pixel `16 l + 4 j + i` in its lane `l`.
    let mut parts = [[zero; 16]; QUAD];
    for (a, part) in parts.iter_mut().enumerate().take(quads.div_ceil(QUAD)) {
        let mut fours = [[zero; QUAD]; QUAD];
        for (q, fours) in fours.iter_mut().enumerate() {
            let c = (a * QUAD + q) * QUAD;
            if a * QUAD + q < quads {
                let [x, y, z, w] = [read(c), read(c + 1), read(c + 2), read(c + 3)];
                let (low, high) = (_mm512_unpacklo_epi8(x, y), _mm512_unpackhi_epi8(x, y));
                let (low_2, high_2) = (_mm512_unpacklo_epi8(z, w), _mm512_unpackhi_epi8(z, w));
                // Lane `l` of register `j` has pixels `16 l + 4 j ..`, four channels each.
                *fours = [
                    _mm512_unpacklo_epi16(low, low_2),
                    _mm512_unpackhi_epi16(low, low_2),
                    _mm512_unpacklo_epi16(high, high_2),
                    _mm512_unpackhi_epi16(high, high_2),
                ];
            }
        }
        for j in 0..QUAD {
            let [x, y, z, w] = [fours[0][j], fours[1][j], fours[2][j], fours[3][j]];
            let (low, high) = (_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
            let (low_2, high_2) = (_mm512_unpacklo_epi32(z, w), _mm512_unpackhi_epi32(z, w));
            part[j * QUAD] = _mm512_unpacklo_epi64(low, low_2);
            part[j * QUAD + 1] = _mm512_unpackhi_epi64(low, low_2);
            part[j * QUAD + 2] = _mm512_unpacklo_epi64(high, high_2);
            part[j * QUAD + 3] = _mm512_unpackhi_epi64(high, high_2);
        }
    }
    let [a, b, c, d] = parts;
    for i in 0..16 {
        let (low, high) =
            (_mm512_shuffle_i32x4::<0x44>(a[i], b[i]), _mm512_shuffle_i32x4::<0xEE>(a[i], b[i]));
        let (low_2, high_2) =
            (_mm512_shuffle_i32x4::<0x44>(c[i], d[i]), _mm512_shuffle_i32x4::<0xEE>(c[i], d[i]));
        // SAFETY: the caller's.
        unsafe {
            _mm512_store_si512(to.add(i), _mm512_shuffle_i32x4::<0x88>(low, low_2));
            _mm512_store_si512(to.add(16 + i), _mm512_shuffle_i32x4::<0xDD>(low, low_2));
            _mm512_store_si512(to.add(32 + i), _mm512_shuffle_i32x4::<0x88>(high, high_2));
            _mm512_store_si512(to.add(48 + i), _mm512_shuffle_i32x4::<0xDD>(high, high_2));
        }
    }
}
