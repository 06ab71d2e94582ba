//! AVX-512 VNNI: sixteen columns a register, four depths an instruction, weights broadcast.
//!
//! `vpdpbusd` adds four products of a uint8 and an int8 to an i32, without saturation. A pass computes some rows of a tile
//! over all the strip's columns, as many as keep 16 to 24 sums in registers: enough to cover the instruction's latency
//! on two ports, while each of the pass's panel registers serves every row and each broadcast every column.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::Tiles;
use crate::isa::Avx512Vnni;
use crate::kernels::pack::{beside, gather};
use crate::kernels::strip_i8::avx512::store_sums;
use crate::kernels::strip_i8::{Block, Gathers, LANES, NR, StripI8, Sums, dense, interleave, word};
use crate::weight::{QUAD, TILE, TilesI8};

pub(super) fn get() -> Option<Tiles> {
    Avx512Vnni::detect().map(|_| Tiles { run, pack, gathers: Some(Gathers { taps: gather, beside }) })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe { interleave(rows, n, panel, stride, 0) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, TilesI8<'_>>) {
    // SAFETY: the caller's; a block has the rows and columns that its passes name.
    unsafe {
        let store = |r0: usize, sums: &[[i32; NR]]| store_sums(s, r0, sums);
        match s.vectors() {
            1 => dense(s, |block, sums| pass::<16, 1>(&block, 0, sums), store),
            2 => {
                let add = |block: Block<'_>, sums: &mut Sums| {
                    pass::<8, 2>(&block, 0, sums);
                    pass::<8, 2>(&block, 8, sums);
                };
                dense(s, add, store);
            }
            3 => {
                let add = |block: Block<'_>, sums: &mut Sums| {
                    pass::<8, 3>(&block, 0, sums);
                    pass::<8, 3>(&block, 8, sums);
                };
                dense(s, add, store);
            }
            _ => {
                let add = |block: Block<'_>, sums: &mut Sums| {
                    pass::<6, 4>(&block, 0, sums);
                    pass::<5, 4>(&block, 6, sums);
                    pass::<5, 4>(&block, 11, sums);
                };
                dense(s, add, store);
            }
        }
    }
}

/// Adds a block's rows `r0..r0 + R` over `V` registers of columns; nothing where no such row exists.
///
/// # Safety
/// The panel has the columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline(never)]
unsafe fn pass<const R: usize, const V: usize>(block: &Block<'_>, r0: usize, sums: &mut Sums) {
    if r0 >= block.rows {
        return;
    }
    const { assert!(R <= TILE && V * LANES <= NR) };
    let rows: &mut [_; R] = sums.0[r0..].first_chunk_mut().expect("a pass stays within a tile");
    let mut acc = [[_mm512_setzero_si512(); V]; R];
    for (r, (acc, row)) in acc.iter_mut().zip(rows.iter()).enumerate() {
        for (v, acc) in acc.iter_mut().enumerate() {
            *acc = match block.start {
                Some(start) => _mm512_set1_epi32(start[r0 + r]),
                // SAFETY: a row of sums has V registers, aligned as `Sums` is.
                None => unsafe { _mm512_load_si512(row.as_ptr().add(v * LANES).cast()) },
            };
        }
    }
    let mut panel = block.panel;
    for quad in block.weights {
        // SAFETY: the panel has V registers of columns for each of its quads.
        let x: [_; V] =
            std::array::from_fn(|v| unsafe { _mm512_loadu_si512(panel.add(v * LANES * QUAD).cast()) });
        let weights: &[_; R] = quad[r0..].first_chunk().expect("a pass stays within a tile");
        for (acc, &w) in acc.iter_mut().zip(weights) {
            let w = _mm512_set1_epi32(word(w));
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = _mm512_dpbusd_epi32(*acc, x, w);
            }
        }
        panel = panel.wrapping_add(block.stride * QUAD);
    }
    for (acc, row) in acc.iter().zip(rows.iter_mut()) {
        for (v, &acc) in acc.iter().enumerate() {
            // SAFETY: as they were loaded.
            unsafe { _mm512_store_si512(row.as_mut_ptr().add(v * LANES).cast(), acc) };
        }
    }
}
