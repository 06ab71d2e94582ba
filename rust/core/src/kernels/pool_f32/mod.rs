//! `pool_f32`: the greatest or the average of what a window sees of one plane.
//!
//! - Planes are rows without gaps; slices may be longer. Elements of `out` beyond the plane are not written.
//! - Padding is never the greatest and adds nothing to a sum; a window of nothing but padding gives minus infinity, or zero
//!   divided by its count.
//! - A NaN is greater than everything, as in torch.
//! - A sum goes down the columns first, then across them, left to right; [`Kernels::mean`] adds element `i` to sum `i mod
//!   32` and then halves the sums onto each other. Every tier adds in that order and gives the same bits.

use super::{Impl, window::Window2};
use crate::isa::Tier;

#[cfg(target_arch = "x86_64")]
mod avx2;
mod rows;
pub(super) mod slide;

pub use slide::Divisor;

/// The kernels of a tier; each computes one plane and panics where a slice is shorter than its plane.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// `max(window, x, out)`: the greatest of each window.
    pub max: fn(&Window2, &[f32], &mut [f32]),
    /// `average(window, divisor, x, out)`: the sum of each window, divided.
    pub average: fn(&Window2, Divisor, &[f32], &mut [f32]),
    /// `mean(x)`: the average of all elements; NaN of none.
    pub mean: fn(&[f32]) -> f32,
}

/// The implementations, best first. On ARM the scalar tier is compiled with NEON; wider vectors than AVX2's gain nothing.
pub static TABLE: &[Impl<Kernels>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    Impl {
        tier: Tier::Scalar,
        get: || Some(Kernels { max: rows::max, average: rows::average, mean: rows::mean }),
    },
];

/// Adaptive pooling of a plane of `input` rows and columns to `output`: the greatest of each of torch's windows.
///
/// # Panics
/// Where a slice is shorter than its plane.
pub fn adaptive_max(input: [usize; 2], output: [usize; 2], x: &[f32], out: &mut [f32]) {
    adaptive(input, output, x, out, |rows| rows.flatten().copied().fold(f32::NEG_INFINITY, rows::greater));
}

/// Adaptive pooling of a plane of `input` rows and columns to `output`: the average of each of torch's windows, summed row
/// by row.
///
/// # Panics
/// Where a slice is shorter than its plane.
pub fn adaptive_average(input: [usize; 2], output: [usize; 2], x: &[f32], out: &mut [f32]) {
    adaptive(input, output, x, out, |rows| {
        let (sum, count) = rows.flatten().fold((0.0, 0usize), |(sum, count), x| (sum + x, count + 1));
        sum / count as f32
    });
}

/// Gives each window, row by row, to `join`.
fn adaptive(
    [h, w]: [usize; 2],
    [oh, ow]: [usize; 2],
    x: &[f32],
    out: &mut [f32],
    join: impl Fn(&mut dyn Iterator<Item = &[f32]>) -> f32,
) {
    for oy in 0..oh {
        for ox in 0..ow {
            let columns = slide::adaptive(w, ow, ox);
            let mut rows = slide::adaptive(h, oh, oy).map(|row| &x[row * w..][columns.clone()]);
            out[oy * ow + ox] = join(&mut rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::window::tests::{cases, seen};
    use crate::testing::{Aligned, Rng, for_each_impl, sum_bound};

    #[test]
    fn every_tier_pools_as_the_contract_says() {
        for_each_impl(TABLE, |tier, kernels| {
            let mut rng = Rng::new(3);
            for case in cases() {
                let window = &case.window;
                let x = Aligned::from(&rng.floats(window.h * window.w + case.gap), case.offset);
                let mut out = Aligned::new(window.oh * window.ow + case.gap, case.offset);
                (kernels.max)(window, &x, &mut out);
                let after = [rng.below(3), rng.below(3)];
                for (i, &got) in out[..window.oh * window.ow].iter().enumerate() {
                    let (values, _) = seen(window, after, &x, i / window.ow, i % window.ow);
                    let most = values.into_iter().fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(got, most, "{tier} {case:?} at {i}");
                }
                for divisor in [Divisor::Inside, Divisor::Padded { after }, Divisor::Fixed(5)] {
                    (kernels.average)(window, divisor, &x, &mut out);
                    for (i, &got) in out[..window.oh * window.ow].iter().enumerate() {
                        let (values, padding) = seen(window, after, &x, i / window.ow, i % window.ow);
                        let count = match divisor {
                            Divisor::Inside => values.len(),
                            Divisor::Padded { .. } => values.len() + padding,
                            Divisor::Fixed(count) => count,
                        } as f64;
                        if values.is_empty() {
                            continue;
                        }
                        let sum: f64 = values.iter().copied().map(f64::from).sum();
                        let magnitude: f64 = values.iter().map(|x| f64::from(x.abs())).sum();
                        let off = (f64::from(got) - sum / count).abs();
                        let bound = sum_bound(values.len() + 2, magnitude / count);
                        assert!(
                            off <= bound,
                            "{tier} {case:?} {divisor:?} at {i}: {got} for {}",
                            sum / count
                        );
                    }
                }
            }
        });
    }

    #[test]
    fn wide_windows_and_lines_longer_than_the_buffer() {
        for_each_impl(TABLE, |tier, kernels| {
            for (w, k, stride) in [(2000, 3, 2), (1100, 2, 2), (700, 600, 1), (900, 2, 300), (1500, 5, 1)] {
                let x = Rng::new(5).floats(2 * w);
                let window =
                    Window2::padded([2, w], [2, k], [1, stride], [1, 1], [[0, 0], [1, 1]], false).unwrap();
                let mut out = vec![0.0; window.ow];
                (kernels.max)(&window, &x, &mut out);
                for (ox, &got) in out.iter().enumerate() {
                    let (values, _) = seen(&window, [0, 1], &x, 0, ox);
                    assert_eq!(got, values.into_iter().fold(f32::NEG_INFINITY, f32::max), "{tier} {w} {ox}");
                }
            }
        });
    }

    #[test]
    fn a_mean_is_the_same_on_every_tier() {
        for n in [1, 2, 31, 32, 33, 49, 64, 196, 1000] {
            let x = Rng::new(n as u64).floats(n);
            let (exact, magnitude) = (
                x.iter().copied().map(f64::from).sum::<f64>() / n as f64,
                x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / n as f64,
            );
            let reference = rows::mean(&x);
            assert!((f64::from(reference) - exact).abs() <= sum_bound(n + 1, magnitude));
            for_each_impl(TABLE, |tier, kernels| {
                assert_eq!((kernels.mean)(&x).to_bits(), reference.to_bits(), "{tier} {n}");
            });
        }
    }

    #[test]
    fn a_nan_wins() {
        for_each_impl(TABLE, |tier, kernels| {
            let window = Window2::padded([20, 20], [3, 3], [2, 2], [1, 1], [[1, 1]; 2], false).unwrap();
            for at in [0, 19, 210, 399] {
                let mut x = vec![f32::INFINITY; 400];
                x[at] = f32::NAN;
                let mut out = vec![0.0; 100];
                (kernels.max)(&window, &x, &mut out);
                for (i, got) in out.iter().enumerate() {
                    let near = |o: usize, i: usize| (2 * o + 1).abs_diff(i + 1) <= 1;
                    let sees = near(i / 10, at / 20) && near(i % 10, at % 20);
                    assert_eq!(got.is_nan(), sees, "{tier} {at} {i}");
                }
            }
        });
    }

    #[test]
    fn adaptive_windows_are_torchs() {
        // torch.nn.functional.adaptive_avg_pool1d(torch.arange(7.), 3): windows 0..3, 2..5, 4..7.
        let x: Vec<f32> = (0..7u8).map(f32::from).collect();
        let mut out = [0.0; 3];
        adaptive_average([1, 7], [1, 3], &x, &mut out);
        assert_eq!(out, [1.0, 3.0, 5.0]);
        adaptive_max([1, 7], [1, 3], &x, &mut out);
        assert_eq!(out, [2.0, 4.0, 6.0]);
        // More outputs than inputs: windows overlap.
        let mut out = [0.0; 5];
        adaptive_average([2, 1], [5, 1], &[1.0, 3.0], &mut out);
        assert_eq!(out, [1.0, 1.0, 2.0, 3.0, 3.0]);
    }
}
