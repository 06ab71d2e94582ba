//! AVX-512 VNNI: sixteen columns a register, four depths an instruction, weights broadcast; or, where that would leave lanes
//! idle, sixteen rows a register and columns broadcast.
//!
//! `vpdpbusd` adds four products of a uint8 and an int8 to an i32, without saturation. A pass computes some rows of a tile
//! over all the strip's columns, as many as keep 16 to 24 sums in registers: enough to cover the instruction's latency
//! on two ports, while each of the pass's panel registers serves every row and each broadcast every column. The 49 columns
//! of a 7 × 7 map fill 77 % of four registers; with rows in the lanes none is idle.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::Tiles;
use crate::isa::Avx512Vnni;
use crate::kernels::pack::{beside, gather};
use crate::kernels::relayout::avx512::transpose;
use crate::kernels::strip_i8::avx512::store_sums;
use crate::kernels::strip_i8::{
    BLOCK_QUADS, Block, Gathers, LANES, NR, StripI8, Sums, dense, interleave, word,
};
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
    let idle = s.vectors() * LANES - s.n;
    if idle >= IDLE && idle * s.weight.quads() > TRANSPOSING * s.vectors() {
        // SAFETY: the caller's.
        return unsafe { by_columns(s) };
    }
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

/// Columns that a strip must leave idle in its registers before rows are better in the lanes. Passes then stay within what a
/// panel has: five of twelve compute up to 57 columns of 64.
const IDLE: usize = 7;

/// What transposing a register's sixteen columns of sums costs, in groups of four depths of a column.
const TRANSPOSING: usize = 128;

/// Sums with columns apart and rows in the lanes.
type Columns = [[i32; TILE]; NR];

/// Computes a strip with rows in the lanes, two tiles at a time: a broadcast column serves both.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn by_columns(s: &StripI8<'_, TilesI8<'_>>) {
    // SAFETY: the caller's.
    unsafe {
        match s.n.div_ceil(s.n.div_ceil(MOST)) {
            ..=4 => by_columns_of::<4>(s),
            ..=6 => by_columns_of::<6>(s),
            ..=8 => by_columns_of::<8>(s),
            ..=10 => by_columns_of::<10>(s),
            _ => by_columns_of::<MOST>(s),
        }
    }
}

/// Most columns of a pass: 24 sums of two tiles, their weights and a column are registers enough.
const MOST: usize = 12;

/// [`by_columns`] in passes of `C` columns; what a pass computes beyond the strip is never stored.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn by_columns_of<const C: usize>(s: &StripI8<'_, TilesI8<'_>>) {
    let (mut apart, mut sums): ([Columns; 2], _) = ([[[0; TILE]; NR]; 2], Sums([[0; NR]; TILE]));
    for r0 in s.rows().step_by(2 * TILE) {
        // An odd last tile is taken twice, and stored once.
        let tiles = [r0, if r0 + TILE < s.rows.1 { r0 + TILE } else { r0 }];
        let weights = tiles.map(|r0| s.weight.tile(r0 / TILE).as_chunks().0.as_chunks().0);
        for (tile, apart) in tiles.into_iter().zip(&mut apart) {
            let mut start = [0; TILE];
            let rows = s.tile_rows(tile);
            start[..rows].copy_from_slice(&s.requant.offset[tile..][..rows]);
            apart[..s.n.div_ceil(C) * C].fill(start);
        }
        for q in (0..s.weight.quads()).step_by(BLOCK_QUADS) {
            let block = weights.map(|tile: &[[[i8; QUAD]; TILE]]| &tile[q..tile.len().min(q + BLOCK_QUADS)]);
            for j0 in (0..s.n).step_by(C) {
                let panel = s.panel.wrapping_add((q * s.panel_stride + j0) * QUAD);
                // SAFETY: a panel has columns up to the next multiple of `LANES`, which passes do not exceed, in each group.
                unsafe { columns::<C>(block, (panel, s.panel_stride), j0, &mut apart) };
            }
        }
        let tiles = if tiles[0] == tiles[1] { &tiles[..1] } else { &tiles };
        for (&tile, apart) in tiles.iter().zip(&apart) {
            for v in 0..s.vectors() {
                let to = sums.0.as_flattened_mut()[v * LANES..].as_mut_ptr();
                // SAFETY: sixteen columns of sixteen rows, and as many of rows of `NR` columns.
                unsafe { transpose(apart[v * LANES..].as_ptr().cast(), TILE, to.cast(), NR) };
            }
            // SAFETY: the caller's.
            unsafe { store_sums(s, tile, &sums.0[..s.tile_rows(tile)]) };
        }
    }
}

/// Adds the products of a block of two tiles' weights to the sums of columns `j0..j0 + C`.
///
/// # Safety
/// The panel has the columns in each group of the block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn columns<const C: usize>(
    weights: [&[[[i8; QUAD]; TILE]]; 2],
    (mut panel, stride): (*const u8, usize),
    j0: usize,
    sums: &mut [Columns; 2],
) {
    let [a, b] = sums
        .each_mut()
        .map(|sums| -> &mut [_; C] { sums[j0..].first_chunk_mut().expect("a pass stays within a strip") });
    // SAFETY: sixteen sums, and a group of a tile, are a register.
    let load = |from: *const i32| unsafe { _mm512_loadu_si512(from.cast()) };
    let mut acc: [[_; 2]; C] = std::array::from_fn(|c| [load(a[c].as_ptr()), load(b[c].as_ptr())]);
    for (first, second) in weights[0].iter().zip(weights[1]) {
        let w = [load(first.as_ptr().cast()), load(second.as_ptr().cast())];
        for (c, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the panel has the column.
            let x = _mm512_set1_epi32(unsafe { panel.add(c * QUAD).cast::<i32>().read_unaligned() });
            for (acc, w) in acc.iter_mut().zip(w) {
                *acc = _mm512_dpbusd_epi32(*acc, x, w);
            }
        }
        panel = panel.wrapping_add(stride * QUAD);
    }
    for (acc, (a, b)) in acc.iter().zip(a.iter_mut().zip(b)) {
        // SAFETY: as they were loaded.
        unsafe {
            _mm512_storeu_si512(a.as_mut_ptr().cast(), acc[0]);
            _mm512_storeu_si512(b.as_mut_ptr().cast(), acc[1]);
        }
    }
}
