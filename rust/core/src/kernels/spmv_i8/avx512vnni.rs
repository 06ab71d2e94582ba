//! AVX-512 VBMI and VNNI: the 256 activations of a block are a table in four registers, looked up 64 indices at a time.
//!
//! `vpermi2b` picks from two registers by the low seven bits of an index; the eighth chooses between two such picks. What
//! is picked meets its weights in `vpdpbusd`, whose lanes are the rows of a tile.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{Kernel, Line, Sell};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::rows::{RowsI8, by_rows, store_tile};
use crate::weight::TILE;

/// Bytes of a register.
const WIDTH: usize = 64;

pub(super) fn get() -> Option<Kernel> {
    Avx512Vnni::detect().map(|_| Kernel::Sell(run))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &RowsI8<'_, &Sell>) {
    by_rows!(s,
        8 => |s, i| vectors::<8>(s, i),
        4 => |s, i| vectors::<4>(s, i),
        2 => |s, i| vectors::<2>(s, i),
        1 => |s, i| vectors::<1>(s, i)
    );
}

/// Vectors `i..i + N`.
///
/// # Safety
/// As [`Kernel`]; there are so many vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn vectors<const N: usize>(s: &RowsI8<'_, &Sell>, i: usize) {
    let Sell { k, block, .. } = *s.weight;
    for r0 in s.rows().step_by(TILE) {
        let (steps, mut lines) = s.weight.tile(r0 / TILE);
        let mut acc = [_mm512_setzero_si512(); N];
        for (b, &steps) in steps.iter().enumerate() {
            let (now, later) = lines.split_at(steps.into());
            lines = later;
            let width = block.min(k - b * block);
            for (j, acc) in acc.iter_mut().enumerate() {
                // SAFETY: vector `i + j` has `k` bytes, of which `width` are the block's.
                let table = unsafe { table(s.x.add((i + j) * s.x_stride + b * block), width) };
                *acc = look_up(*acc, table, now);
            }
        }
        for (j, acc) in acc.into_iter().enumerate() {
            // SAFETY: a register of 32-bit lanes is sixteen sums; the rest is the caller's.
            unsafe { store_tile(s, i + j, r0, &std::mem::transmute::<__m512i, [i32; TILE]>(acc)) };
        }
    }
}

/// `width` bytes from `x`, at most 256, and nothing beyond them.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
unsafe fn table(x: *const u8, width: usize) -> [__m512i; 4] {
    if width == 4 * WIDTH {
        // SAFETY: the caller's.
        return std::array::from_fn(|i| unsafe { _mm512_loadu_si512(x.add(i * WIDTH).cast()) });
    }
    std::array::from_fn(|i| {
        let left = width.saturating_sub(i * WIDTH);
        let mask = if left < WIDTH { (1 << left) - 1 } else { !0 };
        // SAFETY: the mask leaves the caller's bytes; a masked load touches no other.
        unsafe { _mm512_maskz_loadu_epi8(mask, x.wrapping_add(i * WIDTH).cast()) }
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
fn look_up(mut acc: __m512i, table: [__m512i; 4], steps: &[[Line; 2]]) -> __m512i {
    for step in steps {
        // SAFETY: a line is a register, and aligned.
        let [indices, values] =
            step.each_ref().map(|line| unsafe { _mm512_load_si512(line.0.as_ptr().cast()) });
        let low = _mm512_permutex2var_epi8(table[0], indices, table[1]);
        let high = _mm512_permutex2var_epi8(table[2], indices, table[3]);
        let x = _mm512_mask_blend_epi8(_mm512_movepi8_mask(indices), low, high);
        acc = _mm512_dpbusd_epi32(acc, x, values);
    }
    acc
}
