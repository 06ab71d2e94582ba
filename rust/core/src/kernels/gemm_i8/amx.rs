//! AMX: tiles of sixteen rows by sixteen columns, sixty-four depths an instruction.
//!
//! `tdpbsud` multiplies a tile of weights, sixteen rows of up to 64 depths, by a tile of the panel, up to sixteen groups of
//! four depths of sixteen columns, and adds to sixteen rows of sixteen sums. A pass keeps the sums of sixteen rows over all
//! of a strip, four tiles, while a tile of weights serves all four and weights are read once a strip. A block of depth is
//! at most what keeps its panel in the first-level cache while some rows' weights pass over it.

#![allow(unsafe_code, reason = "tile instructions, and loads and stores through pointers")]

use std::arch::asm;

use super::{Blocks, ByBlocks};
use crate::isa::Amx;
use crate::kernels::amx::Shapes;
use crate::kernels::pack::{beside, gather};
use crate::kernels::strip_i8::avx512::store_products;
use crate::kernels::strip_i8::{Gathers, LANES, NR, StripI8, Sums, interleave};
use crate::weight::{QUAD, TILE};

pub(super) fn get() -> Option<ByBlocks> {
    Amx::detect().map(|_| ByBlocks { run, pack, gathers: Some(Gathers { taps: gather, beside }) })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe { interleave(rows, n, panel, stride, 0) };
}

/// Tiles 0 to 3 are sums, 4 is weights `quads` groups deep, 5 to 7 are as deep a part of the panel.
fn shapes(quads: usize) -> Shapes {
    let width = LANES * size_of::<i32>();
    let (sums, weights, panel) = ((TILE, width), (TILE, quads * QUAD), (quads, width));
    Shapes::new([sums, sums, sums, sums, weights, panel, panel, panel])
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, &Blocks>) {
    // SAFETY: the token stands for AMX; the rest is the caller's.
    unsafe {
        shapes(s.weight.quads().max(1)).with(|| {
            if s.weight.count() <= s.weight.near() {
                walk::<1, 2>(s);
            } else {
                walk::<{ Blocks::GROUP }, { 2 * Blocks::GROUP }>(s);
            }
        });
    }
}

/// Computes groups of `G` tiles of rows. A tile is finished while the next group's products are under way: the matrix unit
/// works by itself. So the sums of two groups, `KEPT` tiles, are kept.
///
/// # Safety
/// The caller's of [`run`]; tiles are configured for the weight.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn walk<const G: usize, const KEPT: usize>(s: &StripI8<'_, &Blocks>) {
    let (begin, go_on) = match (s.vectors(), G) {
        (1, _) => (pass_1::<true> as Pass, pass_1::<false> as Pass),
        (2, _) => (pass_2::<true> as _, pass_2::<false> as _),
        (3, 1) => (pass_3_at_once::<true> as _, pass_3_at_once::<false> as _),
        (3, _) => (pass_3::<true> as _, pass_3::<false> as _),
        (_, 1) => (pass_4_at_once::<true> as _, pass_4_at_once::<false> as _),
        _ => (pass_4::<true> as _, pass_4::<false> as _),
    };
    let weight = s.weight;
    let (blocks, quads, near) = (weight.count(), weight.quads(), weight.near());
    let mut sums = [const { Sums([[0; NR]; TILE]) }; KEPT];
    let (first, last) = (s.rows.0 / TILE, s.rows.1.div_ceil(TILE));
    let finish = |tile: usize, sums: &mut [Sums; KEPT]| {
        let rows = TILE.min(s.rows.1 - tile * TILE);
        // SAFETY: the caller's.
        unsafe { store_products(s, tile * TILE, &mut sums[tile % KEPT].0[..rows]) };
    };
    let mut finished = first;
    for group in (first / G * G..last).step_by(G) {
        // A depth of nothing is walked too: it starts the sums.
        for block in (0..blocks.max(1)).step_by(near.max(1)) {
            for tile in first.max(group)..last.min(group + G) {
                let part = Part {
                    weights: weight.part(tile, block),
                    panel: s.panel.wrapping_add(block * quads * s.panel_stride * QUAD),
                    panel_stride: s.panel_stride * QUAD,
                    quads,
                    blocks: near.min(blocks - block),
                };
                let kept = &mut sums[tile % KEPT];
                // SAFETY: tiles are configured; weights and panel have the blocks, and the panel the columns.
                unsafe {
                    if block > 0 {
                        go_on(&part, kept);
                        continue;
                    }
                    begin(&part, kept);
                }
                if finished + G <= tile {
                    finish(finished, &mut sums);
                    finished += 1;
                }
            }
        }
    }
    for tile in finished..last {
        finish(tile, &mut sums);
    }
}

/// Some blocks of depth of a tile of rows.
struct Part {
    weights: *const i8,
    panel: *const u8,
    /// Bytes from one group of four depths to the next.
    panel_stride: usize,
    /// Groups of four depths of a block.
    quads: usize,
    blocks: usize,
}

/// Adds the products of a part to the sums, or, the first of a depth, makes them the sums.
///
/// They start from zero: offsets are added to what is finished, since a tile that was loaded from what has just been stored
/// would wait for all stores before.
///
/// # Safety
/// Tiles are configured as [`shapes`] says, for the part's `quads`; the part has the blocks, its panel the columns.
type Pass = unsafe fn(part: &Part, sums: &mut Sums);

/// Defines a pass over some tiles of columns, each `sums' tile, panel's tile, bytes from the first column, [lines of weights
/// to ask for]`.
macro_rules! pass {
    ($name:ident, $($sum:literal $x:literal $byte:literal [$($line:literal)*]),+) => {
        /// # Safety
        /// See [`Pass`].
        unsafe fn $name<const FIRST: bool>(part: &Part, sums: &mut Sums) {
            // SAFETY: the caller's; a row of sums is four tiles wide.
            unsafe {
                asm!(
                    ".if {first}",
                    $(concat!("tilezero tmm", $sum),)+
                    ".else",
                    $(concat!("tileloadd tmm", $sum, ", [{sums} + {sums_stride} + ", $byte, "]"),)+
                    ".endif",
                    "test {blocks}, {blocks}",
                    "jz 3f",
                    "2:",
                    "tileloadd tmm4, [{weights} + {row}]",
                    $(
                        concat!("tileloadd tmm", $x, ", [{panel} + {panel_stride} + ", $byte, "]"),
                        $(concat!("prefetcht0 [{weights} + ", $line, " * 64]"),)*
                        concat!("tdpbsud tmm", $sum, ", tmm4, tmm", $x),
                    )+
                    "add {weights}, {block}",
                    "add {panel}, {panel_block}",
                    "dec {blocks}",
                    "jnz 2b",
                    "3:",
                    $(concat!("tilestored [{sums} + {sums_stride} + ", $byte, "], tmm", $sum),)+
                    first = const FIRST as i32,
                    blocks = inout(reg) part.blocks => _,
                    weights = inout(reg) part.weights => _,
                    row = in(reg) part.quads * QUAD,
                    block = in(reg) part.quads * QUAD * TILE,
                    panel = inout(reg) part.panel => _,
                    panel_stride = in(reg) part.panel_stride,
                    panel_block = in(reg) part.panel_stride * part.quads,
                    sums = in(reg) sums.0.as_mut_ptr(),
                    sums_stride = in(reg) NR * size_of::<i32>(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

// Weights are read in the order in which they lie, but tiles are loaded in bursts that no prefetcher of the processor keeps
// ahead of. Where the depth is walked at once all lines of the block four on are asked for. In parts, sums come and go as
// well, and two lines of the block eight on make the processor fetch the page around them.
pass!(pass_1, 0 5 0 [128 129]);
pass!(pass_2, 0 5 0 [128], 1 6 64 [129]);
pass!(pass_3, 0 5 0 [128], 1 6 64 [129], 2 7 128 []);
pass!(pass_4, 0 5 0 [128], 1 6 64 [129], 2 7 128 [], 3 5 192 []);
pass!(pass_3_at_once, 0 5 0 [64 65 66 67 68 69], 1 6 64 [70 71 72 73 74], 2 7 128 [75 76 77 78 79]);
pass!(
    pass_4_at_once,
    0 5 0 [64 65 66 67],
    1 6 64 [68 69 70 71],
    2 7 128 [72 73 74 75],
    3 5 192 [76 77 78 79]
);
