//! `depthwise_f32`: one channel's plane convolved with its own kernel.
//!
//! ```text
//! out[oy][ox] = clamp(bias + Σ_{ty,tx} weights[ty][tx] · x[oy·sy + ty·dy - top][ox·sx + tx·dx - left] + residual[oy][ox])
//! ```
//!
//! - Planes are rows without gaps; a slice may be longer than its plane. What lies beyond the plane in `x` is never
//!   used, and beyond it in `out` is undefined after a call.
//! - The sum starts with the bias and takes the taps row by row, left to right, whatever the pixel; a tap outside the
//!   plane adds nothing (or the exact zero that a finite weight makes of it). The residual is added last.
//! - A NaN passes the clamp, as in torch.
//! - Vector tiers fuse multiply and add, the scalar tier rounds in between.

use super::{Impl, window::Window2};
use crate::isa::Tier;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod walk;

/// One channel of one image.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// The geometry.
    pub window: &'a Window2,
    /// The input, at least `h·w` elements.
    pub x: &'a [f32],
    /// `kernel[0]·kernel[1]` factors, row by row.
    pub weights: &'a [f32],
    /// The first addend.
    pub bias: f32,
    /// The last addend, at least `oh·ow` elements, or none.
    pub residual: Option<&'a [f32]>,
    /// Lower and upper bound; infinite where there is none.
    pub clamp: [f32; 2],
}

impl Plane<'_> {
    /// # Panics
    /// Where a slice is shorter than the window says.
    fn check(&self, out: &[f32]) {
        let window = self.window;
        assert!(self.x.len() >= window.h * window.w, "the input is shorter than its plane");
        assert!(out.len() >= window.oh * window.ow, "the output is shorter than its plane");
        assert_eq!(self.weights.len(), window.kernel[0] * window.kernel[1], "one weight a tap");
        let enough = |residual: &[f32]| residual.len() >= window.oh * window.ow;
        assert!(self.residual.is_none_or(enough), "the residual is shorter than its plane");
    }
}

/// Computes `out`, at least `oh·ow` elements.
///
/// # Panics
/// Where a slice is shorter than the window says.
pub type Kernel = fn(&Plane<'_>, &mut [f32]);

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::run) },
];

/// `value` between the bounds; a NaN stays.
fn clamp(value: f32, [lo, hi]: [f32; 2]) -> f32 {
    if value < lo {
        lo
    } else if value > hi {
        hi
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::window::tests::{Case, cases};
    use crate::testing::{Aligned, Rng, for_each_impl, sum_bound};

    /// The exact output and the sum of magnitudes its rounding is measured by.
    fn oracle(plane: &Plane<'_>, oy: usize, ox: usize) -> (f64, f64) {
        let w = plane.window;
        let (mut sum, mut magnitude) = (f64::from(plane.bias), f64::from(plane.bias.abs()));
        for ty in 0..w.kernel[0] {
            for tx in 0..w.kernel[1] {
                let y = (oy * w.stride[0] + ty * w.dilation[0]) as i64 - w.pad[0] as i64;
                let x = (ox * w.stride[1] + tx * w.dilation[1]) as i64 - w.pad[1] as i64;
                if (0..w.h as i64).contains(&y) && (0..w.w as i64).contains(&x) {
                    let product = f64::from(plane.weights[ty * w.kernel[1] + tx])
                        * f64::from(plane.x[y as usize * w.w + x as usize]);
                    sum += product;
                    magnitude += product.abs();
                }
            }
        }
        if let Some(residual) = plane.residual {
            let addend = f64::from(residual[oy * w.ow + ox]);
            sum += addend;
            magnitude += addend.abs();
        }
        (sum.clamp(f64::from(plane.clamp[0]), f64::from(plane.clamp[1])), magnitude)
    }

    /// Runs a case with what lies after the planes poisoned.
    fn check(tier: Tier, kernel: Kernel, case: &Case, rng: &mut Rng) {
        let window = &case.window;
        let (inputs, outputs) = (window.h * window.w, window.oh * window.ow);
        let taps = window.kernel[0] * window.kernel[1];
        let poisoned = |rng: &mut Rng, n: usize| {
            let mut values = rng.floats(n);
            values.resize(n + case.slack, f32::NAN);
            Aligned::from(&values, case.offset)
        };
        let (x, residual) = (poisoned(rng, inputs), poisoned(rng, outputs));
        let weights = rng.floats(taps);
        let bounds = [[f32::NEG_INFINITY, f32::INFINITY], [0.0, 0.75]][rng.below(2)];
        let plane = Plane {
            window,
            x: &x,
            weights: &weights,
            bias: rng.float(),
            residual: (rng.below(2) == 1).then_some(&residual),
            clamp: bounds,
        };
        let mut out = Aligned::new(outputs + case.slack, case.offset);
        out.fill(f32::NAN);
        kernel(&plane, &mut out);
        for oy in 0..window.oh {
            for ox in 0..window.ow {
                let (exact, magnitude) = oracle(&plane, oy, ox);
                let got = f64::from(out[oy * window.ow + ox]);
                assert!(
                    (got - exact).abs() <= sum_bound(taps + 2, magnitude),
                    "{tier} {case:?} at ({oy}, {ox}): {got} for {exact}"
                );
            }
        }
    }

    #[test]
    fn every_tier_agrees_with_the_exact_sum() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut rng = Rng::new(1);
            for case in cases() {
                check(tier, kernel, &case, &mut rng);
            }
        });
    }

    #[test]
    fn a_pixel_is_the_same_wherever_it_lies() {
        // A constant plane: every pixel whose window lies inside has one value, bit for bit.
        for_each_impl(TABLE, |tier, kernel| {
            for (k, stride, size) in [(3, 1, 7), (3, 1, 33), (3, 2, 33), (5, 1, 8), (5, 2, 40), (7, 1, 37)] {
                let window =
                    Window2::padded([size; 2], [k; 2], [stride; 2], [1, 1], [[k / 2; 2]; 2], false).unwrap();
                let weights = Rng::new(2).floats(k * k);
                let (x, mut out) = (vec![0.3; size * size], vec![0.0; window.oh * window.ow]);
                let clamp = [f32::NEG_INFINITY, f32::INFINITY];
                let plane =
                    Plane { window: &window, x: &x, weights: &weights, bias: 0.1, residual: None, clamp };
                kernel(&plane, &mut out);
                let inner = |o: usize| (k / 2..=size - 1 - k / 2).contains(&(o * stride));
                let mut values = (0..window.oh * window.ow)
                    .filter(|i| inner(i / window.ow) && inner(i % window.ow))
                    .map(|i| out[i].to_bits());
                let one = values.next().unwrap();
                assert!(values.all(|value| value == one), "{tier} {k} {stride} {size}");
            }
        });
    }

    #[test]
    fn a_nan_passes_and_stays_where_it_is_read() {
        for_each_impl(TABLE, |tier, kernel| {
            for size in [7, 14, 40] {
                let window = Window2::padded([size; 2], [3, 3], [1, 1], [1, 1], [[1, 1]; 2], false).unwrap();
                let mut x = vec![1.0; size * size];
                // The last of a row: neighbours in memory that are none in the plane must not see it.
                let (y0, x0) = (2, size - 1);
                x[y0 * size + x0] = f32::NAN;
                let mut out = vec![0.0; size * size];
                let plane = Plane {
                    window: &window,
                    x: &x,
                    weights: &[1.0; 9],
                    bias: 0.0,
                    residual: None,
                    clamp: [0.0, 6.0],
                };
                kernel(&plane, &mut out);
                for y in 0..size {
                    for x in 0..size {
                        let near = y.abs_diff(y0) <= 1 && x.abs_diff(x0) <= 1;
                        assert_eq!(out[y * size + x].is_nan(), near, "{tier} {size} ({y}, {x})");
                    }
                }
            }
        });
    }
}
