//! AMX: tiles of up to sixteen pixels by sixteen rows of the weight, sixty-four channels of a tap an instruction.
//!
//! `tdpbusd` multiplies a tile of the image, pixels of up to 64 channels, by a tile of weights as the filters have it, up to
//! sixteen groups of four channels of sixteen rows. A pass keeps the sums of all tiles of a strip, which a tile of weights
//! serves one after the other, over the whole depth. Sums have pixels apart and rows in the lanes; storing them turns them.

#![allow(unsafe_code, reason = "tile instructions, and loads and stores through pointers")]

use std::arch::asm;

use super::{DEPTH, Kernel, Seen, TILES, pack};
use crate::isa::Amx;
use crate::kernels::amx::Shapes;
use crate::kernels::strip_i8::StripI8;
use crate::kernels::strip_i8::avx512::{Pixels, store_pixels};
use crate::weight::{QUAD, TILE};

pub(super) fn get() -> Option<Kernel> {
    Amx::detect().map(|_| Kernel { pack: pack::pack, run })
}

/// Tiles 0 to 3 are sums of `len` pixels, 4 is weights `quads` groups deep, 5 to 7 are as deep a part of the pixels.
fn shapes(len: usize, quads: usize) -> Shapes {
    let (sums, weights, pixels) = ((len, DEPTH), (quads, DEPTH), (len, quads * QUAD));
    Shapes::new([sums, sums, sums, sums, weights, pixels, pixels, pixels])
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &StripI8<'_, Seen<'_>>) {
    // SAFETY: the token stands for AMX; the rest is the caller's.
    unsafe { shapes(s.weight.len, s.weight.filters.quads).with(|| walk(s)) };
}

/// Computes tile after tile of rows. One is stored while the next one's products are under way: the matrix unit works by
/// itself.
///
/// # Safety
/// The caller's of [`run`]; tiles are configured for the strip.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn walk(s: &StripI8<'_, Seen<'_>>) {
    let Seen { filters, offsets, tiles, .. } = s.weight;
    let pass: Pass = match tiles.len() {
        1 => pass_1,
        2 => pass_2,
        3 => pass_3,
        _ => pass_4,
    };
    let mut sums = [const { Pixels::ZERO }; 2];
    let (first, last) = (s.rows.0 / TILE, s.rows.1.div_ceil(TILE));
    for tile in first..last {
        let kept = &mut sums[tile % 2];
        let mut part = Part {
            pixels: [s.panel; TILES],
            sums: [kept.0.as_mut_ptr().cast(); TILES],
            weights: filters.tile(tile).as_ptr().cast(),
            block: filters.quads * QUAD * TILE,
            offsets,
            apart: s.panel_stride,
        };
        for (i, tile) in tiles.iter().enumerate() {
            part.pixels[i] = s.panel.wrapping_add(tile.from);
            part.sums[i] = kept.0[tile.at - tiles[0].at..].as_mut_ptr().cast();
        }
        // SAFETY: tiles are configured; the image has what the taps see, the filters have the steps.
        unsafe { pass(&part) };
        if tile > first {
            // SAFETY: the caller's.
            unsafe { store_pixels(s, (tile - 1) * TILE, &sums[(tile - 1) % 2]) };
        }
    }
    if first < last {
        // SAFETY: the caller's.
        unsafe { store_pixels(s, (last - 1) * TILE, &sums[(last - 1) % 2]) };
    }
}

/// A tile of rows over the whole depth.
#[repr(C)]
struct Part<'a> {
    /// Where the first tap sees the first pixel of each tile.
    pixels: [*const u8; TILES],
    /// The sums of that pixel.
    sums: [*mut i32; TILES],
    weights: *const i8,
    /// Bytes of weights of a step.
    block: usize,
    offsets: &'a [usize],
    /// Bytes from one pixel to the next.
    apart: usize,
}

/// Makes the sums of a part.
///
/// They start from zero: offsets are added to what is finished, since a tile that was loaded from what has just been stored
/// would wait for all stores before.
///
/// # Safety
/// Tiles are configured as [`shapes`] says; the part has so many tiles; the image has what their taps see, the weights have
/// the steps, of which there is at least one.
type Pass = unsafe fn(part: &Part<'_>);

/// Defines a pass over some tiles of pixels, each `sums' tile, pixels' tile, bytes of its pointer, [lines of weights to ask
/// for]`.
macro_rules! pass {
    ($name:ident, $($sum:literal $x:literal $at:literal [$($line:literal)*]),+) => {
        /// # Safety
        /// See [`Pass`].
        unsafe fn $name(part: &Part<'_>) {
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    $(concat!("tilezero tmm", $sum),)+
                    "2:",
                    "mov {offset}, [{offsets}]",
                    "tileloadd tmm4, [{weights} + {line}]",
                    $(
                        concat!("mov {at}, [{part} + {pixels} + ", $at, "]"),
                        "add {at}, {offset}",
                        concat!("tileloadd tmm", $x, ", [{at} + {apart}]"),
                        $(concat!("prefetcht0 [{weights} + ", $line, " * 64]"),)*
                        concat!("tdpbusd tmm", $sum, ", tmm", $x, ", tmm4"),
                    )+
                    "add {weights}, {block}",
                    "add {offsets}, 8",
                    "cmp {offsets}, {end}",
                    "jne 2b",
                    $(
                        concat!("mov {at}, [{part} + {sums} + ", $at, "]"),
                        concat!("tilestored [{at} + {line}], tmm", $sum),
                    )+
                    pixels = const std::mem::offset_of!(Part<'_>, pixels),
                    sums = const std::mem::offset_of!(Part<'_>, sums),
                    part = in(reg) part,
                    at = out(reg) _,
                    offset = out(reg) _,
                    line = in(reg) DEPTH,
                    offsets = inout(reg) part.offsets.as_ptr() => _,
                    end = in(reg) part.offsets.as_ptr_range().end,
                    weights = inout(reg) part.weights => _,
                    block = in(reg) part.block,
                    apart = in(reg) part.apart,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

// Weights are read in the order in which they lie, but tiles are loaded in bursts that no prefetcher of the processor keeps
// ahead of: all lines of the step four on are asked for.
pass!(pass_1, 0 5 0 [64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79]);
pass!(pass_2, 0 5 0 [64 65 66 67 68 69 70 71], 1 6 8 [72 73 74 75 76 77 78 79]);
pass!(pass_3, 0 5 0 [64 65 66 67 68 69], 1 6 8 [70 71 72 73 74], 2 7 16 [75 76 77 78 79]);
pass!(
    pass_4,
    0 5 0 [64 65 66 67],
    1 6 8 [68 69 70 71],
    2 7 16 [72 73 74 75],
    3 5 24 [76 77 78 79]
);
