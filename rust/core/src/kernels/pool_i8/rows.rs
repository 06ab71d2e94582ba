//! The kernels in portable code, inlined into each tier.

#![allow(clippy::inline_always, reason = "what is inlined takes on the features of the tier that calls it")]

use super::Rescale;
use crate::kernels::pool_f32::slide::{Divisor, slide};
use crate::kernels::window::Window2;

#[inline(always)]
pub(super) fn max(window: &Window2, x: &[u8], out: &mut [u8]) {
    slide(
        window,
        x,
        0,
        |x| x,
        u8::max,
        |oy, ox, results| {
            out[oy * window.ow + ox..][..results.len()].copy_from_slice(results);
        },
    );
}

#[inline(always)]
pub(super) fn average(window: &Window2, divisor: Divisor, rescale: Rescale, x: &[u8], out: &mut [u8]) {
    let zero_point = i32::from(rescale.x_zero_point);
    slide(
        window,
        x,
        0,
        |x| i32::from(x) - zero_point,
        |a, b| a + b,
        |oy, ox, results| {
            let row = &mut out[oy * window.ow..][..window.ow];
            divisor.stretches(window, oy, ox..ox + results.len(), |outputs, count| {
                let factor = rescale.factor(count);
                let sums = &results[outputs.start - ox..outputs.end - ox];
                row[outputs]
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(to, &sum)| *to = rescale.byte(sum as f32, factor));
            });
        },
    );
}

#[inline(always)]
pub(super) fn mean(x: &[u8], rescale: Rescale) -> u8 {
    // Stretches whose sum fits in 32 bits.
    let sum = |x: &[u8]| i64::from(x.iter().map(|&x| u32::from(x)).sum::<u32>());
    let sum = x.chunks(1 << 20).map(sum).sum::<i64>() - i64::from(rescale.x_zero_point) * x.len() as i64;
    rescale.byte(sum as f32, rescale.factor(x.len()))
}
