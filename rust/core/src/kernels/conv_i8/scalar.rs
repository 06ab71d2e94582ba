//! The portable tier: a pixel at a time, its sixteen sums in an array the compiler keeps in what vectors there are.

#![allow(unsafe_code, reason = "reads planes and an image through pointers")]

use super::{DEPTH, Kernel, Pack, Seen};
use crate::kernels::strip_i8::{StripI8, store_columns};
use crate::weight::{QUAD, TILE};

pub(super) fn get() -> Kernel {
    Kernel { pack, run }
}

unsafe fn pack(call: &Pack<'_>) {
    let packing = call.packing;
    let window = &packing.window;
    let first = call.rows.0 * window.stride[0];
    for y in 0..packing.rows(call.rows.1 - call.rows.0) {
        let row = (first + y).wrapping_sub(window.pad[0]);
        for x in 0..packing.width {
            let column = x.wrapping_sub(window.pad[1]);
            let inside = row < window.h && column < window.w;
            for c in 0..packing.channels {
                let (block, channel) = (c / (packing.quads * QUAD), c % (packing.quads * QUAD));
                let at = block * packing.apart + (y * packing.width + x) * DEPTH + channel;
                // SAFETY: the planes have what lies inside, the image has every pixel of the band.
                unsafe {
                    *call.image.add(at) = if inside {
                        *call.x.add(c * call.pitch + row * window.w + column)
                    } else {
                        call.padding
                    };
                }
            }
        }
    }
}

unsafe fn run(s: &StripI8<'_, Seen<'_>>) {
    let Seen { filters, offsets, tiles, len, .. } = s.weight;
    for r0 in s.rows().step_by(TILE) {
        let steps = filters.tile(r0 / TILE).chunks(filters.quads);
        for tile in tiles {
            for i in 0..len {
                let mut sums = [0; TILE];
                for (step, &offset) in steps.clone().zip(offsets) {
                    // SAFETY: the image has what the taps of every tile see.
                    let pixel = unsafe { s.panel.add(tile.from + offset + i * s.panel_stride) };
                    for (q, line) in step.iter().enumerate() {
                        // SAFETY: a pixel has the block's channels; bytes have no alignment.
                        let x = unsafe { pixel.add(q * QUAD).cast::<[u8; QUAD]>().read() }.map(i32::from);
                        for (sum, w) in sums.iter_mut().zip(line.0) {
                            for i in 0..QUAD {
                                *sum += i32::from(w[i]) * x[i];
                            }
                        }
                    }
                }
                for (r, sum) in s.rows().skip(r0 - s.rows.0).zip(sums) {
                    let sum = sum + s.requant.offset[r];
                    // SAFETY: the strip has the row and the pixel.
                    unsafe { store_columns::<1, _>(s, r, tile.at - tiles[0].at + i, &[sum]) };
                }
            }
        }
    }
}
