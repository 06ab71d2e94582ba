//! AVX2: four non-zeros interleaved, multiplied by `vpmaddubsw` in pairs that fit its 16 bits, eight columns a register of
//! sums.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::quads::{Place, Sums, groups};
use super::{ByQuads, Kernel, Quads};
use crate::isa::Avx2;
use crate::kernels::strip_i8::avx2::store_sums;
use crate::kernels::strip_i8::{NR, StripI8, word};

/// Columns whose bytes are a register, and sums four of them.
const COLUMNS: usize = 32;
/// Sums of a register.
const WIDTH: usize = 8;

pub(super) fn get() -> Option<Kernel> {
    Avx2::detect().map(|_| Kernel::Quads(ByQuads { run, made: Quads::in_pairs, nr: NR }))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &StripI8<'_, &Quads>) {
    // SAFETY: the caller's; sums are stored where they were, and once the group's are complete, as the strip's rows.
    unsafe {
        groups(s, |place, sums: *mut [Sums; 1]| {
            let sums = sums.cast();
            if s.n > COLUMNS {
                add::<2>(place, s.panel_stride, sums);
            } else {
                add::<1>(place, s.panel_stride, sums);
            }
            if place.last {
                let rows = Sums::rows(sums, place.wanted.clone());
                store_sums(s, place.first + place.wanted.start, rows);
            }
        });
    }
}

/// Adds the fours of a group of rows over `H` times [`COLUMNS`]. Sums lie as unpacking within 128-bit lanes leaves them until
/// the last block's.
///
/// # Safety
/// The panel has the indices of all fours, and the columns; `sums` is valid, and initialised where it is not to be
/// overwritten.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn add<const H: usize>(place: &Place<'_>, stride: usize, sums: *mut Sums) {
    let one = _mm256_set1_epi16(1);
    const { assert!(H * COLUMNS <= NR) };
    for (r, fours) in place.rows() {
        // SAFETY: the group has the row.
        let sums = unsafe { Sums::row(sums, r) };
        let mut acc = [[_mm256_setzero_si256(); 4]; H];
        for (h, acc) in acc.iter_mut().enumerate() {
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = match place.start {
                    Some(start) => _mm256_set1_epi32(start[r]),
                    // SAFETY: a row of sums has the columns, aligned as `Sums` is.
                    None => unsafe { _mm256_load_si256(sums.add(h * COLUMNS + i * WIDTH).cast()) },
                };
            }
        }
        for four in fours {
            let w = _mm256_set1_epi32(word(four.values));
            let [a, b, c, d] =
                four.indices.map(|index| place.panel.wrapping_add(usize::from(index) * stride));
            for (h, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the caller's.
                let [a, b, c, d] = unsafe {
                    [
                        _mm256_loadu_si256(a.add(h * COLUMNS).cast()),
                        _mm256_loadu_si256(b.add(h * COLUMNS).cast()),
                        _mm256_loadu_si256(c.add(h * COLUMNS).cast()),
                        _mm256_loadu_si256(d.add(h * COLUMNS).cast()),
                    ]
                };
                let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
                let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
                let x = [
                    _mm256_unpacklo_epi16(low, low2),
                    _mm256_unpackhi_epi16(low, low2),
                    _mm256_unpacklo_epi16(high, high2),
                    _mm256_unpackhi_epi16(high, high2),
                ];
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x[i], w), one));
                }
            }
        }
        for (h, &acc) in acc.iter().enumerate() {
            let acc = if place.last { in_order(acc) } else { acc };
            for (i, &acc) in acc.iter().enumerate() {
                // SAFETY: as they were loaded.
                unsafe { _mm256_store_si256(sums.add(h * COLUMNS + i * WIDTH).cast(), acc) };
            }
        }
    }
}

/// Puts the sums of 32 columns in order.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn in_order([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    [
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x20>(c, d),
        _mm256_permute2x128_si256::<0x31>(a, b),
        _mm256_permute2x128_si256::<0x31>(c, d),
    ]
}
