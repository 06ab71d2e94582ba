//! The kernels in portable code, inlined into each tier.

#![allow(clippy::inline_always, reason = "what is inlined takes on the features of the tier that calls it")]

use super::slide::{Divisor, slide};
use crate::kernels::window::Window2;

/// The greater; a NaN wins.
#[inline(always)]
pub(super) fn greater(a: f32, b: f32) -> f32 {
    // The inner choice is the processor's `max`, which gives `b` where either is a NaN.
    let most = if a > b { a } else { b };
    if a.is_nan() { a } else { most }
}

#[inline(always)]
pub(super) fn max(window: &Window2, x: &[f32], out: &mut [f32]) {
    slide(
        window,
        x,
        f32::NEG_INFINITY,
        |x| x,
        greater,
        |oy, ox, results| {
            out[oy * window.ow + ox..][..results.len()].copy_from_slice(results);
        },
    );
}

#[inline(always)]
pub(super) fn average(window: &Window2, divisor: Divisor, x: &[f32], out: &mut [f32]) {
    slide(
        window,
        x,
        0.0,
        |x| x,
        |a, b| a + b,
        |oy, ox, results| {
            let row = &mut out[oy * window.ow..][..window.ow];
            divisor.stretches(window, oy, ox..ox + results.len(), |outputs, count| {
                let count = count as f32;
                let sums = &results[outputs.start - ox..outputs.end - ox];
                row[outputs].iter_mut().zip(sums).for_each(|(to, sum)| *to = sum / count);
            });
        },
    );
}

/// Sums in progress.
const LANES: usize = 32;

#[inline(always)]
pub(super) fn mean(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0] / x.len() as f32
}
