//! The portable tier: one tile, one vector at a time.

#![allow(unsafe_code, reason = "reads activations through their pointer")]

use super::{Kernel, Quads, Tile, tiles};
use crate::kernels::strip_i8::rows::{RowsI8, by_rows};
use crate::weight::{QUAD, TILE, TilesI8};

pub(super) fn get() -> Kernel {
    run
}

unsafe fn run(s: &RowsI8<'_, TilesI8<'_>>) {
    by_rows!(s, 1 => |s, i| tiles::<1, 1>(s, i, dot, dot));
}

fn dot([tile]: [Tile<'_>; 1], x: &Quads<1>) -> [[[i32; TILE]; 1]; 1] {
    let mut sums = [0; TILE];
    for (q, weights) in tile.iter().enumerate() {
        let x: [u8; QUAD] = bytemuck::cast(x.at(0, q));
        for (sum, w) in sums.iter_mut().zip(weights) {
            *sum += (0..QUAD).map(|i| i32::from(w[i]) * i32::from(x[i])).sum::<i32>();
        }
    }
    [[sums]]
}
