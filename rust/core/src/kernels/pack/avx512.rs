//! `pack`, AVX-512: the runs of a vector merged by masked loads; every second element of two loads where the stride is
//! two, gathered where it is more.

#![allow(unsafe_code, reason = "planes are read and rows written through the pointers of the call")]

use super::{Fill, LANES_F32, LANES_U8, Piece, Run, scalar};
use crate::isa::Avx512;
use std::arch::x86_64::*;

pub(super) fn get_f32() -> Option<Run<f32>> {
    // SAFETY: an `Avx512` exists only where the CPU has the features `f32s` is compiled with; the rest is the caller's.
    Avx512::detect().map(|_| (|fill| unsafe { f32s(fill) }) as Run<f32>)
}

pub(super) fn get_u8() -> Option<Run<u8>> {
    // SAFETY: as above.
    Avx512::detect().map(|_| (|fill| unsafe { u8s(fill) }) as Run<u8>)
}

/// The longest stride whose multiples, one a lane, are indices of a gather: 32 bits.
const MOST_GATHERED: usize = i32::MAX as usize / LANES_F32;

/// Pieces of a vector whose masks are found before its channels are walked: rows of five pixels and more.
const MOST_HALVES: usize = 4;

/// The lanes of a piece as a mask.
fn lanes(piece: Piece) -> u64 {
    (u64::MAX >> (64 - u32::from(piece.len))) << piece.first
}

/// Bit `i` moved to bit `2 i`.
fn spread(bits: u32) -> u64 {
    let bits = u64::from(bits);
    let bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    let bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    let bits = (bits | bits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let bits = (bits | bits << 2) & 0x3333_3333_3333_3333;
    (bits | bits << 1) & 0x5555_5555_5555_5555
}

/// The lanes of a piece whose stride is two: every second element of two vectors, the second of which starts one element
/// early, so that nothing past the last lane is read.
#[derive(Clone, Copy, Default)]
struct Halves {
    src: isize,
    lanes: u16,
    low: u16,
    high: u16,
}

impl Halves {
    fn of(piece: Piece) -> Halves {
        let lanes = lanes(piece) as u16;
        let bits = spread(u32::from(lanes));
        Halves { src: piece.src, lanes, low: bits as u16, high: (bits >> 15) as u16 }
    }

    /// `row` with the lanes of the piece replaced.
    ///
    /// # Safety
    /// The CPU has AVX-512 and the piece is inside the plane at `x`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
    unsafe fn read(&self, x: *const f32, row: __m512) -> __m512 {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
        let from = x.wrapping_offset(self.src);
        // SAFETY: a masked load reads the mask's lanes alone, which are those of the piece.
        let (low, high) = unsafe {
            (
                _mm512_maskz_loadu_ps(self.low, from),
                _mm512_maskz_loadu_ps(self.high, from.wrapping_add(LANES_F32 - 1)),
            )
        };
        _mm512_mask_mov_ps(row, self.lanes, _mm512_permutex2var_ps(low, even, high))
    }
}

/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn f32s(fill: &Fill<'_, f32>) {
    if fill.taps.stride() > MOST_GATHERED {
        // SAFETY: the caller's.
        return unsafe { scalar::run::<f32, LANES_F32>(fill) };
    }
    let padding = _mm512_set1_ps(fill.padding);
    let steps = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(fill.taps.stride() as i32),
    );
    let unit = fill.taps.stride() == 1;
    for v in 0..fill.taps.vectors {
        let pieces = fill.taps.pieces(fill.tap, v);
        let mut out = fill.out.wrapping_add(v * LANES_F32);
        let mut x = fill.x;
        match *pieces {
            [piece] if unit => {
                let mask = lanes(piece) as u16;
                for _ in 0..fill.channels {
                    // SAFETY: the mask's lanes are inside the plane; a row is whole vectors long.
                    unsafe {
                        let from = x.wrapping_offset(piece.src);
                        _mm512_storeu_ps(out, _mm512_mask_loadu_ps(padding, mask, from));
                    }
                    (x, out) = (x.wrapping_add(fill.pitch), out.wrapping_add(fill.out_stride));
                }
            }
            [a, b] if unit => {
                let (mask_a, mask_b) = (lanes(a) as u16, lanes(b) as u16);
                for _ in 0..fill.channels {
                    // SAFETY: as above.
                    unsafe {
                        let row = _mm512_mask_loadu_ps(padding, mask_a, x.wrapping_offset(a.src));
                        let row = _mm512_mask_loadu_ps(row, mask_b, x.wrapping_offset(b.src));
                        _mm512_storeu_ps(out, row);
                    }
                    (x, out) = (x.wrapping_add(fill.pitch), out.wrapping_add(fill.out_stride));
                }
            }
            _ if fill.taps.stride() == 2 && pieces.len() <= MOST_HALVES => {
                let mut halves = [Halves::default(); MOST_HALVES];
                for (halves, &piece) in halves.iter_mut().zip(pieces) {
                    *halves = Halves::of(piece);
                }
                let halves = &halves[..pieces.len()];
                for _ in 0..fill.channels {
                    // An image lies in no near cache, and a few rows of it are too short for a prefetcher to follow.
                    for halves in halves {
                        let next = x.wrapping_offset(halves.src).wrapping_add(fill.taps.ahead);
                        _mm_prefetch::<_MM_HINT_T0>(next.cast());
                        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(LANES_F32).cast());
                    }
                    // SAFETY: as above; every second element of a piece is inside the plane.
                    unsafe {
                        let row = halves.iter().fold(padding, |row, halves| halves.read(x, row));
                        _mm512_storeu_ps(out, row);
                    }
                    (x, out) = (x.wrapping_add(fill.pitch), out.wrapping_add(fill.out_stride));
                }
            }
            _ => {
                for _ in 0..fill.channels {
                    let mut row = padding;
                    for &piece in pieces {
                        let (mask, from) = (lanes(piece) as u16, x.wrapping_offset(piece.src));
                        // SAFETY: as above; a gather reads the mask's lanes alone.
                        row = unsafe {
                            if unit {
                                _mm512_mask_loadu_ps(row, mask, from)
                            } else {
                                _mm512_mask_i32gather_ps::<4>(row, mask, steps, from)
                            }
                        };
                    }
                    // SAFETY: as above.
                    unsafe { _mm512_storeu_ps(out, row) };
                    (x, out) = (x.wrapping_add(fill.pitch), out.wrapping_add(fill.out_stride));
                }
            }
        }
    }
}

/// Reads of one vector for which there is room before its channels are walked: a row of seven pixels or more for each.
const MOST_READS: usize = 12;

/// One read of a vector: lanes and where lane 0 would read; with a stride of two, the bytes of either half that are read.
#[derive(Clone, Copy, Default)]
struct Read {
    src: isize,
    lanes: u64,
    low: u64,
    high: u64,
}

impl Read {
    fn of(piece: Piece) -> Read {
        let lanes = lanes(piece);
        Read { src: piece.src, lanes, low: spread(lanes as u32), high: spread((lanes >> 32) as u32) }
    }

    /// `row` with the lanes replaced.
    ///
    /// # Safety
    /// The CPU has AVX-512 and the pieces read are inside the plane at `x`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
    unsafe fn apply<const STRIDE: usize>(&self, x: *const i8, row: __m512i) -> __m512i {
        let from = x.wrapping_offset(self.src);
        // SAFETY: a masked load reads the mask's lanes alone, which are those of the pieces.
        unsafe {
            if STRIDE == 1 {
                return _mm512_mask_loadu_epi8(row, self.lanes, from);
            }
            let low = _mm512_maskz_loadu_epi8(self.low, from);
            let high = _mm512_maskz_loadu_epi8(self.high, from.wrapping_add(LANES_U8));
            let even = _mm512_inserti64x4::<1>(
                _mm512_castsi256_si512(_mm512_cvtepi16_epi8(low)),
                _mm512_cvtepi16_epi8(high),
            );
            _mm512_mask_mov_epi8(row, self.lanes, even)
        }
    }
}

/// # Safety
/// See [`Run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn u8s(fill: &Fill<'_, u8>) {
    // SAFETY: the caller's.
    unsafe {
        match fill.taps.stride() {
            1 => reads::<1>(fill),
            2 => reads::<2>(fill),
            _ => scalar::run::<u8, LANES_U8>(fill),
        }
    }
}

/// # Safety
/// See [`Run`]; the stride is `STRIDE`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
unsafe fn reads<const STRIDE: usize>(fill: &Fill<'_, u8>) {
    let padding = _mm512_set1_epi8(fill.padding.cast_signed());
    for v in 0..fill.taps.vectors {
        let pieces = fill.taps.pieces(fill.tap, v);
        let (mut room, mut len) = ([Read::default(); MOST_READS], 0);
        let mut left = pieces.iter();
        // Where rows of the output follow each other as those of the input do, one read is of many pieces.
        for &piece in left.by_ref() {
            match room[..len].last_mut() {
                Some(last) if STRIDE == 1 && last.src == piece.src => last.lanes |= lanes(piece),
                _ => {
                    room[len] = Read::of(piece);
                    len += 1;
                    if len == MOST_READS {
                        break;
                    }
                }
            }
        }
        let (reads, left) = (&room[..len], left.as_slice());
        let mut out = fill.out.wrapping_add(v * LANES_U8).cast::<i8>();
        let mut x = fill.x.cast::<i8>();
        for _ in 0..fill.channels {
            // SAFETY: the pieces are inside the plane, and no other bytes are read; a row is whole vectors long.
            unsafe {
                let row = match reads {
                    [read] => read.apply::<STRIDE>(x, padding),
                    _ => reads.iter().fold(padding, |row, read| read.apply::<STRIDE>(x, row)),
                };
                let row = left.iter().fold(row, |row, &piece| Read::of(piece).apply::<STRIDE>(x, row));
                _mm512_storeu_epi8(out, row);
            }
            (x, out) = (x.wrapping_add(fill.pitch), out.wrapping_add(fill.out_stride));
        }
    }
}
