//! The portable tier: a tap at a time over a stretch of a row, which the compiler vectorises for stride 1.

use super::Channels;
use crate::kernels::strip_i8::{Output, Requant, clamp, quantize};

/// Outputs of a row whose sums are held at a time.
const STRETCH: usize = 128;

pub(super) fn run(run: &Channels<'_>, out: &mut [u8]) {
    run.check(out);
    let window = run.window;
    for channel in 0..run.requant.offset.len() {
        for oy in 0..window.oh {
            for start in (0..window.ow).step_by(STRETCH) {
                let mut held = [run.requant.offset[channel]; STRETCH];
                let sums = &mut held[..STRETCH.min(window.ow - start)];
                add(run, channel, oy, start, sums);
                store(run, channel, oy * window.ow + start, sums, out);
            }
        }
    }
}

/// Adds the taps of outputs `start..` of row `oy`.
fn add(run: &Channels<'_>, channel: usize, oy: usize, start: usize, sums: &mut [i32]) {
    let window = run.window;
    let ([dy, dx], [sy, sx], [top, left]) = (window.dilation, window.stride, window.pad);
    let plane = &run.x[channel * run.x_pitch..];
    let weights = &run.weights[channel * run.taps()..][..run.taps()];
    let (rows, _) = window.taps_of_row(oy);
    for (ty, weights) in weights.chunks_exact(window.kernel[1]).enumerate() {
        let row =
            if rows.contains(&ty) { &plane[(oy * sy + ty * dy - top) * window.w..][..window.w] } else { &[] };
        for (tx, &weight) in weights.iter().enumerate() {
            let weight = i32::from(weight);
            // Outputs whose tap lies in the row; the others read the zero point.
            let inside = if row.is_empty() { 0..0 } else { window.columns_of(tx) };
            let end = inside.end.clamp(start, start + sums.len());
            let first = inside.start.clamp(start, end);
            let outside = weight * i32::from(run.x_zero_point);
            let (before, rest) = sums.split_at_mut(first - start);
            let (within, after) = rest.split_at_mut(end - first);
            before.iter_mut().chain(after).for_each(|sum| *sum += outside);
            if !within.is_empty() {
                let from = &row[first * sx + tx * dx - left..];
                let add = |(sum, &x): (&mut i32, &u8)| *sum += weight * i32::from(x);
                if sx == 1 {
                    within.iter_mut().zip(from).for_each(add);
                } else {
                    within.iter_mut().zip(from.iter().step_by(sx)).for_each(add);
                }
            }
        }
    }
}

/// Stores the outputs of these sums, the first of which is element `at` of the channel's plane.
fn store(run: &Channels<'_>, channel: usize, at: usize, sums: &[i32], out: &mut [u8]) {
    let requant = &run.requant;
    let (scale, bias) = (requant.scale[channel], requant.bias[channel]);
    let residual = requant.residual.map(|how| (how, &run.residual[channel * run.residual_pitch + at..]));
    let real = |i: usize| {
        let y = Requant::real(sums[i], scale, bias);
        residual.map_or(y, |(how, bytes)| how.add(y, bytes[i]))
    };
    let at = channel * run.out_pitch + at;
    match requant.output {
        Output::U8 { zero_point, lo, hi } => {
            let out = &mut out[at..][..sums.len()];
            out.iter_mut().enumerate().for_each(|(i, to)| *to = quantize(real(i), zero_point, lo, hi));
        }
        Output::F32 { lo, hi } => {
            let out = out[4 * at..][..4 * sums.len()].chunks_exact_mut(4);
            out.enumerate().for_each(|(i, to)| to.copy_from_slice(&clamp(real(i), lo, hi).to_ne_bytes()));
        }
    }
}
