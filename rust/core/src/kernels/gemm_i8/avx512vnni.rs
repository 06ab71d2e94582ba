//! AVX-512 VNNI: sixteen columns a register, four depths an instruction, weights broadcast; or, where that would leave lanes
//! idle, sixteen rows a register and columns broadcast.
//!
//! `vpdpbusd` adds four products of a uint8 and an int8 to an i32, without saturation. A pass computes some rows of a tile
//! over all the strip's columns, as many as keep 16 to 24 sums in registers: enough to cover the instruction's latency
//! on two ports, while each of the pass's panel registers serves every row and each broadcast every column. Where the depth
//! ends, sums become bytes without leaving the registers. The 49 columns of a 7 × 7 map fill 77 % of four registers; with
//! rows in the lanes none is idle.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::x86_64::*;

use super::Tiles;
use crate::isa::Avx512Vnni;
use crate::kernels::pack::{beside, gather};
use crate::kernels::strip_i8::avx512::{Bytes, Pixels, store_pixels, store_sums};
use crate::kernels::strip_i8::{
    BLOCK_QUADS, Block, Gathers, LANES, NR, Output, StripI8, Sums, dense, interleave, word,
};
use crate::kernels::unroll::unroll;
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
    // SAFETY: the caller's.
    unsafe {
        if s.weight.quads() * s.rows().len() * QUAD > NEAR { by_rows::<true>(s) } else { by_rows::<false>(s) }
    }
}

/// Bytes of weights that are still in a near cache when the next strip reads them.
const NEAR: usize = 128 << 10;

/// Computes a strip with columns in the lanes. Weights that lie `FAR` are asked for a block ahead.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn by_rows<const FAR: bool>(s: &StripI8<'_, TilesI8<'_>>) {
    // SAFETY: the caller's; a block has the rows and columns that its passes name.
    unsafe {
        match s.vectors() {
            1 => walk(s, |block, sums| pass::<16, 1, FAR>(s, &block, 0, sums)),
            2 => walk(s, |block, sums| {
                pass::<8, 2, FAR>(s, &block, 0, sums);
                pass::<8, 2, FAR>(s, &block, 8, sums);
            }),
            3 => walk(s, |block, sums| {
                pass::<8, 3, FAR>(s, &block, 0, sums);
                pass::<8, 3, FAR>(s, &block, 8, sums);
            }),
            _ => walk(s, |block, sums| {
                pass::<6, 4, FAR>(s, &block, 0, sums);
                pass::<5, 4, FAR>(s, &block, 6, sums);
                pass::<5, 4, FAR>(s, &block, 11, sums);
            }),
        }
    }
}

/// The loop nest; passes have stored sums that became bytes.
///
/// # Safety
/// As [`dense`].
#[inline(always)]
unsafe fn walk(s: &StripI8<'_, TilesI8<'_>>, add: impl FnMut(Block<'_>, &mut Sums)) {
    let store = |r0: usize, sums: &[[i32; NR]]| {
        if let Output::F32 { .. } = s.requant.output {
            // SAFETY: the caller's.
            unsafe { store_sums(s, r0, sums) };
        }
    };
    // SAFETY: the caller's.
    unsafe { dense(s, add, store) };
}

/// Adds a block's rows `r0..r0 + R` over `V` registers of columns, and stores them where they are then finished bytes;
/// nothing where no such row exists.
///
/// # Safety
/// The strip is one of `StripI8Kernel`'s, the block one of its blocks, and the panel has the columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline(never)]
unsafe fn pass<const R: usize, const V: usize, const FAR: bool>(
    s: &StripI8<'_, TilesI8<'_>>,
    block: &Block<'_>,
    r0: usize,
    sums: &mut Sums,
) {
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
        if FAR {
            // Blocks lie in the order of their turns.
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(quad).wrapping_add(BLOCK_QUADS).cast());
        }
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
    if let (Some(first), Output::U8 { .. }) = (block.finishes, s.requant.output) {
        let bytes = Bytes::new(s);
        unroll!(FOUR < R.div_ceil(4), {
            unroll!(I < 4, {
                let r = FOUR * 4 + I;
                if r < R && r0 + r < block.rows {
                    let mut sums = [_mm512_setzero_si512(); NR / LANES];
                    sums[..V].copy_from_slice(&acc[r]);
                    // SAFETY: the strip has the row.
                    unsafe { bytes.store::<true, _>(s, first + r0 + r, sums) };
                }
            });
        });
        return;
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

/// Computes a strip with rows in the lanes, two tiles at a time: a broadcast column serves both.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn by_columns(s: &StripI8<'_, TilesI8<'_>>) {
    // SAFETY: the caller's.
    unsafe {
        match s.n.div_ceil(s.n.div_ceil(MOST)) {
            0..=4 => by_columns_of::<4>(s),
            5..=6 => by_columns_of::<6>(s),
            7..=8 => by_columns_of::<8>(s),
            9..=10 => by_columns_of::<10>(s),
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
    let mut sums = [Pixels::ZERO; 2];
    let quads = s.weight.quads();
    let tile = |i: usize| s.weight.tile(i).as_chunks().0.as_chunks().0;
    for r0 in s.rows().step_by(2 * TILE) {
        // An odd last tile is taken twice, and stored once.
        let tiles = [r0, if r0 + TILE < s.rows.1 { r0 + TILE } else { r0 }];
        let weights = tiles.map(|r0| tile(r0 / TILE));
        for sums in &mut sums {
            sums.0[..s.n.div_ceil(C) * C].fill([0; TILE]);
        }
        for q in (0..quads).step_by(BLOCK_QUADS) {
            let block = weights.map(|tile: &[[[i8; QUAD]; TILE]]| &tile[q..quads.min(q + BLOCK_QUADS)]);
            // Weights are read once. The first two passes ask for those of the next block, or of the next two tiles.
            let next = if q + BLOCK_QUADS < quads { BLOCK_QUADS } else { 2 * quads - q };
            for (i, j0) in (0..s.n).step_by(C).enumerate() {
                let ahead = block[i % 2].as_ptr().wrapping_add(if i < 2 { next } else { 0 });
                let panel = s.panel.wrapping_add((q * s.panel_stride + j0) * QUAD);
                // SAFETY: a panel has columns up to the next multiple of `LANES`, which passes do not exceed, in each group.
                unsafe { columns::<C>(block, (panel, s.panel_stride), ahead, j0, &mut sums) };
            }
        }
        let tiles = if tiles[0] == tiles[1] { &tiles[..1] } else { &tiles };
        for (&tile, sums) in tiles.iter().zip(&sums) {
            // SAFETY: the caller's.
            unsafe { store_pixels(s, tile, sums) };
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
    mut ahead: *const [[i8; QUAD]; TILE],
    j0: usize,
    sums: &mut [Pixels; 2],
) {
    let [a, b] = sums
        .each_mut()
        .map(|sums| -> &mut [_; C] { sums.0[j0..].first_chunk_mut().expect("a pass stays within a strip") });
    // SAFETY: sixteen sums, and a group of a tile, are a register.
    let load = |from: *const i32| unsafe { _mm512_loadu_si512(from.cast()) };
    let mut acc: [[_; 2]; C] = std::array::from_fn(|c| [load(a[c].as_ptr()), load(b[c].as_ptr())]);
    for (first, second) in weights[0].iter().zip(weights[1]) {
        let w = [load(first.as_ptr().cast()), load(second.as_ptr().cast())];
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        ahead = ahead.wrapping_add(1);
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
