//! The portable tier: a tap at a time over a whole row, which the compiler vectorises for stride 1.

use super::{Channels, clamp};

pub(super) fn run(run: &Channels<'_>, out: &mut [f32]) {
    run.check(out);
    let window = run.window;
    let ([dy, dx], [sy, sx], [top, left]) = (window.dilation, window.stride, window.pad);
    let [tall, wide] = window.kernel;
    for (channel, &bias) in run.bias.iter().enumerate() {
        let plane = &run.x[channel * run.x_pitch..];
        let weights = &run.weights[channel * tall * wide..][..tall * wide];
        for oy in 0..window.oh {
            let at = channel * run.out_pitch + oy * window.ow;
            let row = &mut out[at..][..window.ow];
            row.fill(bias);
            let (tap_rows, _) = window.taps_of_row(oy);
            for ty in tap_rows {
                let input = &plane[(oy * sy + ty * dy - top) * window.w..][..window.w];
                for (tx, &weight) in weights[ty * wide..][..wide].iter().enumerate() {
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
            if let Some(residual) = run.residual {
                row.iter_mut().zip(&residual[at..]).for_each(|(sum, r)| *sum += r);
            }
            for sum in row {
                *sum = clamp(*sum, run.clamp);
            }
        }
    }
}
