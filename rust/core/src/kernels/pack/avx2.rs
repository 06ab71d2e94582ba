//! `pack`, AVX2: halves of vectors, merged by blends. Floats have masked loads. Bytes have not: what a piece does not need is
//! read along, and of a channel whose neighbours are not there to be read, a copy.

#![allow(unsafe_code, reason = "planes are read and rows written through the pointers of the call")]

use super::{Fill, LANES_F32, LANES_U8, Piece, Run, scalar};
use crate::isa::Avx2;
use std::arch::x86_64::*;

pub(super) fn get_f32() -> Option<Run<f32>> {
    // SAFETY: an `Avx2` exists only where the CPU has the features `f32s` is compiled with; the rest is the caller's.
    Avx2::detect().map(|_| (|fill| unsafe { f32s(fill) }) as Run<f32>)
}

pub(super) fn get_u8() -> Option<Run<u8>> {
    // SAFETY: as above.
    Avx2::detect().map(|_| (|fill| unsafe { u8s(fill) }) as Run<u8>)
}

/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32s(fill: &Fill<'_, f32>) {
    // SAFETY: the caller's.
    unsafe {
        match fill.taps.stride() {
            1 => floats::<1>(fill),
            2 => floats::<2>(fill),
            _ => scalar::run::<f32, LANES_F32>(fill),
        }
    }
}

/// Of stride `S`.
///
/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats<const S: usize>(fill: &Fill<'_, f32>) {
    let padding = [_mm256_set1_ps(fill.padding); 2];
    for v in 0..fill.taps.vectors {
        let out = fill.out.wrapping_add(v * LANES_F32);
        let row = |c: usize| out.wrapping_add(c * fill.out_stride);
        let plane = |c: usize| fill.x.wrapping_add(c * fill.pitch);
        // Where the output is as wide as the plane, pieces read on where the one before ended: all are one load.
        let mut reads = fill.taps.pieces(fill.tap, v).chunk_by(|a, b| a.src == b.src).map(Read::of);
        let first = reads.next().unwrap_or_default();
        // SAFETY: the pieces are inside the plane; a row is whole vectors long.
        unsafe {
            let masks = first.masks::<S>();
            for c in 0..fill.channels {
                if S > 1 {
                    // An image lies in no near cache, and a few rows of it are too short for a prefetcher to follow.
                    let next = plane(c).wrapping_offset(first.src).wrapping_add(fill.taps.ahead);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(LANES_F32).cast());
                }
                store(row(c), masks.merge::<S>(plane(c).wrapping_offset(first.src), padding));
            }
            for read in reads {
                let masks = read.masks::<S>();
                for c in 0..fill.channels {
                    store(row(c), masks.merge::<S>(plane(c).wrapping_offset(read.src), load(row(c))));
                }
            }
        }
    }
}

/// A vector of floats.
type Floats = [__m256; 2];

/// # Safety
/// The processor has AVX2; a vector is readable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load(from: *const f32) -> Floats {
    // SAFETY: the caller's.
    unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
}

/// # Safety
/// The processor has AVX2; a vector is writable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn store(to: *mut f32, [low, high]: Floats) {
    // SAFETY: the caller's.
    unsafe {
        _mm256_storeu_ps(to, low);
        _mm256_storeu_ps(to.add(8), high);
    }
}

/// What one load of a vector of floats serves: lanes, a bit each, and where lane 0 would read.
#[derive(Clone, Copy, Default)]
struct Read {
    src: isize,
    lanes: u32,
}

impl Read {
    /// Of pieces of one `src`.
    fn of(pieces: &[Piece]) -> Read {
        let lanes = |piece: &Piece| (u32::MAX >> (32 - u32::from(piece.len))) << piece.first;
        Read { src: pieces[0].src, lanes: pieces.iter().fold(0, |all, piece| all | lanes(piece)) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn masks<const S: usize>(self) -> Masks {
        let halves = [self.lanes, self.lanes >> 8].map(|lanes| _mm256_set1_epi32(lanes as i32));
        // Bit 31 is of no lane.
        let none = i32::MIN;
        let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let low = _mm256_setr_epi32(1, none, 2, none, 4, none, 8, none);
        let high = _mm256_setr_epi32(16, none, 32, none, 64, none, 128, none);
        Masks {
            lanes: halves.map(|half| chosen(half, lanes)),
            spread: halves
                .map(|half| if S == 1 { [half; 2] } else { [chosen(half, low), chosen(half, high)] }),
        }
    }
}

/// The lanes whose bit is set.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn chosen(bits: __m256i, bit: __m256i) -> __m256i {
    _mm256_cmpeq_epi32(_mm256_and_si256(bits, bit), bit)
}

/// The masks of a [`Read`]: of the lanes of either half and, with a stride of two, of the elements that either half of them
/// reads.
struct Masks {
    lanes: [__m256i; 2],
    spread: [[__m256i; 2]; 2],
}

impl Masks {
    /// `row` with the lanes replaced, of which lane 0 would read at `from`.
    ///
    /// # Safety
    /// The processor has AVX2, and what the lanes read, every `S`-th element, is readable.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn merge<const S: usize>(&self, from: *const f32, row: Floats) -> Floats {
        let mut out = row;
        for half in 0..2 {
            let from = from.wrapping_add(half * S * 8);
            // SAFETY: the masks' elements are those that the lanes read; others are not.
            let read = unsafe {
                if S == 1 {
                    _mm256_maskload_ps(from, self.lanes[half])
                } else {
                    let [low, high] = self.spread[half];
                    let (low, high) =
                        (_mm256_maskload_ps(from, low), _mm256_maskload_ps(from.wrapping_add(8), high));
                    // Shuffling goes by lanes of 128 bits.
                    let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(low, high));
                    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(even))
                }
            };
            out[half] = _mm256_blendv_ps(row[half], read, _mm256_castsi256_ps(self.lanes[half]));
        }
        out
    }
}

/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn u8s(fill: &Fill<'_, u8>) {
    // SAFETY: the caller's.
    unsafe {
        match fill.taps.stride() {
            1 => bytes::<1>(fill),
            2 => bytes::<2>(fill),
            _ => scalar::run::<u8, LANES_U8>(fill),
        }
    }
}

/// A vector of bytes.
type Bytes = [__m256i; 2];

/// Bytes of a half of it.
const HALF: usize = LANES_U8 / 2;

/// Of stride `S`.
///
/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bytes<const S: usize>(fill: &Fill<'_, u8>) {
    let [h, w] = fill.taps.window.input();
    let readable = fill.channels.saturating_sub(1) * fill.pitch + h * w;
    for v in 0..fill.taps.vectors {
        let out = fill.out.wrapping_add(v * LANES_U8);
        let pieces = fill.taps.pieces(fill.tap, v);
        if pieces.is_empty() {
            // SAFETY: the caller's; no lane is replaced.
            unsafe { merge::<S>(fill, &[], 0, readable, out) };
        }
        // Where the output is as wide as the plane, pieces read on where the one before ended: all are one load.
        let mut merged = 0;
        for pieces in pieces.chunk_by(|a, b| a.src == b.src) {
            // SAFETY: the caller's.
            unsafe { merge::<S>(fill, pieces, merged, readable, out) };
            merged += pieces.len();
        }
    }
}

/// Replaces the lanes of pieces that one load serves, in each channel's vector, of which so many other pieces are there
/// already; `readable` bytes are from the first plane's start to the last one's end.
///
/// # Safety
/// See [`Run`]; the pieces are of one `src`, and of the stride `S`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn merge<const S: usize>(
    fill: &Fill<'_, u8>,
    pieces: &[Piece],
    merged: usize,
    readable: usize,
    out: *mut u8,
) {
    let padding = [_mm256_set1_epi8(fill.padding.cast_signed()); 2];
    let lanes = lanes(pieces);
    let src = pieces.first().map_or(0, |piece| piece.src);
    let reach = S * LANES_U8;
    for c in 0..fill.channels {
        let to = out.wrapping_add(c * fill.out_stride).cast::<__m256i>();
        // It wraps where it lies before the first plane.
        let start = (c * fill.pitch).wrapping_add_signed(src);
        // SAFETY: a row is whole vectors long; what is read lies between the first plane's start and the last one's end, or
        // in the copy.
        unsafe {
            let read = if start.checked_add(reach).is_some_and(|end| end <= readable) {
                every::<S>(fill.x.add(start))
            } else {
                let mut copy = [0; 2 * LANES_U8];
                let before = if start.cast_signed() < 0 { start.wrapping_neg().min(reach) } else { 0 };
                let start = start.wrapping_add(before);
                let len = readable.saturating_sub(start).min(reach - before);
                copy[before..before + len]
                    .copy_from_slice(std::slice::from_raw_parts(fill.x.wrapping_add(start), len));
                every::<S>(copy.as_ptr())
            };
            let row =
                if merged == 0 { padding } else { [_mm256_loadu_si256(to), _mm256_loadu_si256(to.add(1))] };
            _mm256_storeu_si256(to, _mm256_blendv_epi8(row[0], read[0], lanes[0]));
            _mm256_storeu_si256(to.add(1), _mm256_blendv_epi8(row[1], read[1], lanes[1]));
        }
    }
}

/// The lanes of pieces as a mask.
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes(pieces: &[Piece]) -> Bytes {
    let mut lanes = [0_u8; LANES_U8];
    for piece in pieces {
        lanes[usize::from(piece.first)..][..usize::from(piece.len)].fill(u8::MAX);
    }
    // SAFETY: both halves of the array.
    unsafe {
        let halves = lanes.as_ptr().cast::<__m256i>();
        [_mm256_loadu_si256(halves), _mm256_loadu_si256(halves.add(1))]
    }
}

/// Every `S`-th byte, `S` being 1 or 2.
///
/// # Safety
/// `S` vectors are readable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn every<const S: usize>(from: *const u8) -> Bytes {
    // SAFETY: the caller's.
    let half = |i: usize| unsafe { _mm256_loadu_si256(from.add(i * HALF).cast()) };
    if S == 1 {
        return [half(0), half(1)];
    }
    let even = |i| _mm256_and_si256(half(i), _mm256_set1_epi16(0x00ff));
    // Packing goes by lanes of 128 bits.
    [
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(even(0), even(1))),
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(even(2), even(3))),
    ]
}
