//! Portable blocks of 4 rows by 8 columns, which compilers put in the vectors every x86-64 and ARM processor has.

#![allow(unsafe_code, reason = "reads and writes through the strip's raw pointers")]

use super::{Ahead, Blocks, Run, scale_and_bias, walk, weights};
use crate::kernels::strip::{Strip, StripKernel, TILE};
use crate::weight::Tiles;

const ROWS: usize = 4;
const LANES: usize = 8;

static BLOCKS: Blocks = Blocks {
    lanes: LANES,
    wide: [
        [&[(ROWS, block), (ROWS, block), (ROWS, block), (ROWS, block)], &[(ROWS, block), (ROWS, block)]],
        [&[], &[]],
        [&[], &[]],
    ],
    seam: &[],
    tall: &[],
};

pub(super) fn get() -> StripKernel<Run> {
    StripKernel { run, nr: 192, kb: 256 }
}

unsafe fn run(s: &Strip<'_, Tiles<'_, f32>>) {
    // SAFETY: the caller's; portable blocks need no token.
    unsafe { walk(s, &BLOCKS) }
}

/// # Safety
/// As for [`walk`].
unsafe fn block(s: &Strip<'_, Tiles<'_, f32>>, r: usize, j: usize, _: Ahead) {
    let mut sums = [[0.0f32; LANES]; ROWS];
    let w = weights(s, r);
    for k in 0..s.block.1 - s.block.0 {
        // SAFETY: the panel has a row for every `k` of the block, readable to a whole number of vectors; a tile has TILE
        // weights for each, ROWS of them from `r` on.
        let (x, w) = unsafe {
            (
                s.panel.add(k * s.panel_stride + j).cast::<[f32; LANES]>().read_unaligned(),
                w.add(k * TILE).cast::<[f32; ROWS]>().read_unaligned(),
            )
        };
        for (sums, w) in sums.iter_mut().zip(w) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += w * x;
            }
        }
    }
    for (r, sums) in (r..s.rows.1).zip(sums) {
        let at = r * s.out_stride + j;
        // SAFETY: a row in the range is writable to a whole number of vectors.
        let out = unsafe { s.out.add(at) }.cast::<[f32; LANES]>();
        let mut y = sums;
        if !s.first {
            // SAFETY: as above; the first block wrote it.
            y = add(unsafe { out.read_unaligned() }, y);
        }
        if s.last {
            let (scale, bias) = scale_and_bias(s, r);
            y = y.map(|y| y * scale + bias);
            if !s.residual.is_null() {
                // SAFETY: a residual has the output's shape.
                y = add(y, unsafe { s.residual.add(at).cast::<[f32; LANES]>().read_unaligned() });
            }
            // Comparisons that a NaN fails, so that it stays.
            let [lo, hi] = s.epilogue.clamp;
            y = y.map(|y| if y < lo { lo } else { y }).map(|y| if y > hi { hi } else { y });
        }
        // SAFETY: as above.
        unsafe { out.write_unaligned(y) };
    }
}

fn add(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
    std::array::from_fn(|i| a[i] + b[i])
}
