//! The portable tier: a tap at a time over a whole row, which the compiler vectorises for stride 1.

use super::{Plane, clamp};

pub(super) fn run(plane: &Plane<'_>, out: &mut [f32]) {
    plane.check(out);
    let window = plane.window;
    if window.ow == 0 {
        return;
    }
    let [dy, dx] = window.dilation;
    let [sy, sx] = window.stride;
    let [top, left] = window.pad;
    for (oy, row) in out.chunks_exact_mut(window.ow).take(window.oh).enumerate() {
        row.fill(plane.bias);
        let (tap_rows, _) = window.taps_of_row(oy);
        for ty in tap_rows {
            let input = &plane.x[(oy * sy + ty * dy - top) * window.w..][..window.w];
            let weights = &plane.weights[ty * window.kernel[1]..][..window.kernel[1]];
            for (tx, &weight) in weights.iter().enumerate() {
                let columns = window.columns_of(tx);
                if columns.is_empty() {
                    continue;
                }
                let from = &input[columns.start * sx + tx * dx - left..];
                let to = &mut row[columns];
                if sx == 1 {
                    to.iter_mut().zip(from).for_each(|(sum, x)| *sum += weight * x);
                } else {
                    to.iter_mut().zip(from.iter().step_by(sx)).for_each(|(sum, x)| *sum += weight * x);
                }
            }
        }
        if let Some(residual) = plane.residual {
            row.iter_mut().zip(&residual[oy * window.ow..]).for_each(|(sum, r)| *sum += r);
        }
        row.iter_mut().for_each(|sum| *sum = clamp(*sum, plane.clamp));
    }
}
