//! AVX-512 VNNI: four non-zeros interleaved, sixteen columns an instruction.
//!
//! The four rows of the panel that four non-zeros name are interleaved in registers, which makes of them what a dense
//! panel would have held: four depths of a column side by side. Unpacking works within 128-bit lanes, so lane `l` of
//! sum `i` holds columns `16 l + 4 i ..`; sums stay in that order until the last block's are stored.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::avx2::in_order;
use super::quads::{Place, Sums, groups};
use super::{ByQuads, Kernel, Quads};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::avx512::{Bytes, is_whole};
use crate::kernels::strip_i8::{NR, Output, StripI8, store_rows, word};

/// Two registers of columns pass over a row at a time: its fours are decoded once for both, and read half as often.
const WIDE: usize = 2;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| Kernel::Quads(ByQuads { run, made: Quads::in_turn, nr: WIDE * NR }))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, &Quads>) {
    debug_assert!(s.n <= WIDE * NR, "{} columns", s.n);
    // SAFETY: the caller's; sums are stored where they were, and once the group's are complete, as the strip's rows.
    unsafe {
        if s.n <= NR {
            narrow(s);
        } else if let Output::F32 { .. } = s.requant.output {
            for j in (0..s.n).step_by(NR) {
                narrow(&columns(s, j));
            }
        } else {
            let halves: [_; WIDE] = std::array::from_fn(|h| columns(s, h * NR));
            let bytes = halves.each_ref().map(|half| Bytes::new(half));
            groups(s, |place, sums| {
                whole::<WIDE>(place, s.panel_stride, sums, |(r, h), sums, _| {
                    bytes[h].store::<false, _>(&halves[h], place.first + r, sums);
                });
            });
        }
    }
}

/// Columns `j..` of a strip, at most [`NR`] of them.
fn columns<'a>(s: &StripI8<'a, &'a Quads>, j: usize) -> StripI8<'a, &'a Quads> {
    let size = match s.requant.output {
        Output::U8 { .. } => size_of::<u8>(),
        Output::F32 { .. } => size_of::<f32>(),
    };
    StripI8 {
        panel: s.panel.wrapping_add(j),
        n: (s.n - j).min(NR),
        out: s.out.wrapping_add(j * size),
        residual: if s.residual.is_null() { s.residual } else { s.residual.wrapping_add(j) },
        ..*s
    }
}

/// [`run`] of at most [`NR`] columns.
///
/// # Safety
/// As [`ByQuads`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn narrow(s: &StripI8<'_, &Quads>) {
    let stride = s.panel_stride;
    // SAFETY: the caller's; sums are stored where they were, and once the group's are complete, as the strip's rows.
    unsafe {
        let store = |place: &Place<'_>, sums: *mut [Sums; 1]| {
            if place.last {
                let rows = Sums::rows(sums.cast(), place.wanted.clone());
                store_rows(s, place.first + place.wanted.start, rows);
            }
        };
        if is_whole(s) {
            let bytes = Bytes::new(s);
            groups(s, |place, sums| {
                whole::<1>(place, stride, sums, |(r, _), sums, _| {
                    bytes.store::<false, _>(s, place.first + r, sums);
                });
            });
        } else if s.n > NR / 2 {
            groups(s, |place, sums| {
                whole::<1>(place, stride, sums, |_, sums, at| {
                    for (i, sums) in sums.into_iter().enumerate() {
                        let lanes: [[i32; 4]; 4] = std::mem::transmute(sums);
                        for (l, lane) in lanes.into_iter().enumerate() {
                            at.add(16 * l + 4 * i).cast::<[i32; 4]>().write(lane);
                        }
                    }
                });
                store(place, sums);
            });
        } else {
            groups(s, |place, sums| {
                half::<1>(place, stride, sums, |_, sums, at| {
                    at.cast::<[__m256i; 4]>().write(in_order(sums));
                });
                store(place, sums);
            });
        }
    }
}

/// Defines `$name::<H>(place, stride, sums, finish)`: adds the fours of a group of rows over `H` times the columns, a byte
/// each, that a register holds. `sums` is where earlier blocks left their sums and where these are left, except those of the
/// last block, which go to `finish((row, h), sums, at)`, `row` being of the group and `at` the place in `sums[h]`.
macro_rules! add {
    (
        $name:ident, vector: $vector:ident, $load:ident, $load_sums:ident, $store_sums:ident, $splat:ident,
        $low8:ident, $high8:ident, $low16:ident, $high16:ident, $dot:ident
    ) => {
        /// # Safety
        /// The panel has the indices of all fours, and the columns; `sums` is valid, and initialised where it is not to be
        /// overwritten.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
        #[inline(never)]
        unsafe fn $name<const H: usize>(
            place: &Place<'_>,
            stride: usize,
            sums: *mut [Sums; H],
            finish: impl Fn((usize, usize), [$vector; 4], *mut i32),
        ) {
            /// Sums of a register.
            const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();
            const { assert!(4 * WIDTH <= NR) };
            for (r, quads) in place.rows() {
                // SAFETY: the group has the row, and `sums` is of `H` halves.
                let sums = std::array::from_fn(|h| unsafe { Sums::row(sums.cast::<Sums>().add(h), r) });
                let mut acc: [[$vector; 4]; H] = match place.start {
                    Some(start) => [[$splat(start[r]); 4]; H],
                    None => sums.map(|at| {
                        // SAFETY: four registers of sums lie there.
                        std::array::from_fn(|i| unsafe { $load_sums(at.add(i * WIDTH).cast()) })
                    }),
                };
                for quad in quads {
                    let at = quad.indices.map(|index| place.panel.wrapping_add(usize::from(index) * stride));
                    let w = $splat(word(quad.values));
                    for (h, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: the caller's.
                        let x = at.map(|at| unsafe { $load(at.add(h * NR).cast()) });
                        let (a, b) = ($low8(x[0], x[1]), $high8(x[0], x[1]));
                        let (c, d) = ($low8(x[2], x[3]), $high8(x[2], x[3]));
                        *acc = [
                            $dot(acc[0], $low16(a, c), w),
                            $dot(acc[1], $high16(a, c), w),
                            $dot(acc[2], $low16(b, d), w),
                            $dot(acc[3], $high16(b, d), w),
                        ];
                    }
                }
                for (h, (acc, at)) in acc.into_iter().zip(sums).enumerate() {
                    if place.last {
                        finish((r, h), acc, at);
                    } else {
                        for (i, acc) in acc.into_iter().enumerate() {
                            // SAFETY: as they were loaded.
                            unsafe { $store_sums(at.add(i * WIDTH).cast(), acc) };
                        }
                    }
                }
            }
        }
    };
}

add!(
    whole, vector: __m512i, _mm512_loadu_si512, _mm512_load_si512, _mm512_store_si512, _mm512_set1_epi32,
    _mm512_unpacklo_epi8, _mm512_unpackhi_epi8, _mm512_unpacklo_epi16, _mm512_unpackhi_epi16, _mm512_dpbusd_epi32
);

add!(
    half, vector: __m256i, _mm256_loadu_si256, _mm256_load_si256, _mm256_store_si256, _mm256_set1_epi32,
    _mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16, _mm256_dpbusd_epi32
);
