//! AVX2: a window of activations is a table of registers of sixteen bytes, and `vpshufb` looks 32 columns up in each.
//!
//! `vpshufb` goes by the low four bits of a column; the others choose among what it picked. So a look-up costs the more the
//! wider the window, but in a narrow one more lanes rest: windows are as wide as the weight is sparse. Bytes meet in 16
//! bits, since `vpmaddubsw` saturates; the lanes are the rows of a tile.

#![allow(unsafe_code, reason = "vector loads through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, Packed};
use crate::isa::Avx2;
use crate::kernels::lanes::GROUP;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows, store_tile};
use crate::weight::{SparseRows, TILE};

/// Columns to which the start of a window is rounded down: few, and few loads of a table cross a cache line.
const ROUND: usize = 8;

/// Bytes of a register of a table.
const PART: usize = 16;

pub(super) fn get() -> Option<Kernel> {
    Avx2::detect().map(|_| Kernel::Packed { pack, run })
}

/// In the narrowest windows that a row has as many non-zeros in as a step takes, or nearly.
fn pack(weight: &SparseRows<'_, i8>) -> Packed {
    let window = match weight.nnz() as f64 / (weight.m() * weight.k()).max(1) as f64 {
        share if share > 1.0 / 12.0 => 64,
        share if share > 1.0 / 40.0 => 128,
        _ => 256,
    };
    Packed::new(weight, window, ROUND)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(s: &RowsI8<'_, &Packed>) {
    // SAFETY: the caller's.
    unsafe {
        match s.weight.window() {
            64 => run_windows::<64>(s),
            128 => run_windows::<128>(s),
            _ => run_windows::<256>(s),
        }
    }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn run_windows<const WINDOW: usize>(s: &RowsI8<'_, &Packed>) {
    by_rows!(s,
        4 => |s, i| vectors::<WINDOW, 4>(s, i),
        2 => |s, i| vectors::<WINDOW, 2>(s, i),
        1 => |s, i| vectors::<WINDOW, 1>(s, i)
    );
}

/// Vectors `i..i + N`.
///
/// # Safety
/// As [`Kernel`]; there are so many vectors.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn vectors<const WINDOW: usize, const N: usize>(s: &RowsI8<'_, &Packed>, i: usize) {
    let mut short = [[0; WINDOW]; N];
    // SAFETY: the call has the vectors, each of `k` bytes.
    let x = unsafe {
        let mut x: [_; N] = std::array::from_fn(|j| s.x.add((i + j) * s.x_stride));
        s.weight.lengthen(&mut x, &mut short);
        x
    };
    for r0 in s.rows().step_by(GROUP * TILE) {
        let sums = s.weight.group(r0 / (GROUP * TILE), |t| {
            // SAFETY: windows lie within the vectors.
            let one = |x| unsafe { tile::<WINDOW, 1>(s.weight, t, [x]) };
            // The table of a wide window takes the registers there are, and the steps of a tile stay near.
            // SAFETY: the same.
            if WINDOW == 64 { unsafe { tile::<WINDOW, N>(s.weight, t, x) } } else { x.map(|x| one(x)[0]) }
        });
        for (j, sums) in sums.iter().enumerate() {
            for (r0, sums) in (r0..s.rows.1).step_by(TILE).zip(sums) {
                // SAFETY: the caller's.
                unsafe { store_tile(s, i + j, r0, sums) };
            }
        }
    }
}

/// Sums of `N` vectors over one tile.
///
/// # Safety
/// Every vector has the columns of every window of the tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile<const WINDOW: usize, const N: usize>(
    weight: &Packed,
    tile: usize,
    x: [*const u8; N],
) -> [[i32; TILE]; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (first, [columns, values]) in weight.steps(tile) {
        // SAFETY: two registers of 32 bytes each.
        let [columns, values]: [[__m256i; 2]; 2] = unsafe {
            [columns, values].map(|line| {
                let line = line.as_ptr().cast::<__m256i>();
                [_mm256_loadu_si256(line), _mm256_loadu_si256(line.add(1))]
            })
        };
        for (sums, x) in sums.iter_mut().zip(x) {
            let part = |p| {
                // SAFETY: a part of the window, which the caller says the vector has.
                let part = unsafe { _mm_loadu_si128(x.add(first + p * PART).cast()) };
                _mm256_broadcastsi128_si256(part)
            };
            for half in 0..2 {
                let x = look_up::<WINDOW>(part, columns[half]);
                let w = values[half];
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
                let low = _mm256_and_si256(x, _mm256_set1_epi16(0xff));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(low, even));
                let (high, odd) = (_mm256_srli_epi16::<8>(x), _mm256_srai_epi16::<8>(w));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(high, odd));
            }
        }
    }
    // SAFETY: two registers of 32-bit lanes are sixteen sums.
    sums.map(|sums| unsafe { std::mem::transmute::<[__m256i; 2], [i32; TILE]>(sums) })
}

/// What a window has at 32 columns; `part(p)` is its sixteen bytes from `16 p`, twice.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up<const WINDOW: usize>(part: impl Fn(usize) -> __m256i, columns: __m256i) -> __m256i {
    // A bit of each column where a blend wants it, on top of its byte.
    let (bit4, bit5, bit6) =
        (_mm256_slli_epi16::<3>(columns), _mm256_slli_epi16::<2>(columns), _mm256_slli_epi16::<1>(columns));
    let pick = |p, columns| _mm256_shuffle_epi8(part(p), columns);
    let pick2 = |p, columns| _mm256_blendv_epi8(pick(p, columns), pick(p + 1, columns), bit4);
    let pick4 = |p, columns| _mm256_blendv_epi8(pick2(p, columns), pick2(p + 2, columns), bit5);
    let pick8 = |p, columns| _mm256_blendv_epi8(pick4(p, columns), pick4(p + 4, columns), bit6);
    match WINDOW {
        64 => pick4(0, columns),
        128 => pick8(0, columns),
        _ => {
            // A shuffle picks zero where the eighth bit is set.
            let upper = _mm256_xor_si256(columns, _mm256_set1_epi8(i8::MIN));
            _mm256_or_si256(pick8(0, columns), pick8(8, upper))
        }
    }
}
