//! `depthwise_f32`: each channel's plane convolved with a kernel of its own.
//!
//! ```text
//! out[oy][ox] = clamp(bias + Σ_{ty,tx} weights[ty][tx] · x[oy·sy + ty·dy - top][ox·sx + tx·dx - left] + residual[oy][ox])
//! ```
//!
//! - Planes are rows without gaps. What lies between and after the planes may be read, is never used, and in `out` is
//!   undefined after a call.
//! - The sum starts with the bias and takes the taps row by row, left to right, whatever the pixel; a tap outside the
//!   plane adds nothing (or the exact zero that a finite weight makes of it). The residual is added last.
//! - A NaN passes the clamp, as in torch.
//! - Vector tiers fuse multiply and add, the scalar tier rounds in between.

use super::{
    Impl,
    window::{Window2, span},
};
use crate::isa::Tier;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod walk;

/// A run of channels of one image; a run shares what is worked out from the geometry.
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a> {
    /// The geometry.
    pub window: &'a Window2,
    /// The input planes, `x_pitch` apart, each `h·w` elements.
    pub x: &'a [f32],
    /// Elements from one input plane to the next; 0 where all outputs read one plane.
    pub x_pitch: usize,
    /// `kernel[0]·kernel[1]` factors a channel, row by row.
    pub weights: &'a [f32],
    /// The first addend of each channel; its length is the number of channels.
    pub bias: &'a [f32],
    /// The last addend, planes `out_pitch` apart, or none.
    pub residual: Option<&'a [f32]>,
    /// Lower and upper bound; infinite where there is none.
    pub clamp: [f32; 2],
    /// Elements from one output plane to the next, at least `oh·ow`.
    pub out_pitch: usize,
}

impl Channels<'_> {
    /// # Panics
    /// Where a slice is shorter than the window and the number of channels say, or the planes of the output overlap.
    fn check(&self, out: &[f32]) {
        let (window, channels) = (self.window, self.bias.len());
        let outputs = window.oh * window.ow;
        assert!(self.out_pitch >= outputs || channels <= 1, "output planes overlap");
        let needed = |plane, pitch| span(channels, plane, pitch);
        assert!(self.x.len() >= needed(window.h * window.w, self.x_pitch), "the input is too short");
        assert!(out.len() >= needed(outputs, self.out_pitch), "the output is too short");
        let enough = |residual: &[f32]| residual.len() >= needed(outputs, self.out_pitch);
        assert!(self.residual.is_none_or(enough), "the residual is too short");
        let taps = window.kernel[0] * window.kernel[1];
        assert_eq!(Some(self.weights.len()), channels.checked_mul(taps), "one weight a tap and channel");
    }
}

/// Computes the channels' output planes.
///
/// # Panics
/// Where a slice is shorter than the window and the number of channels say, or the planes of the output overlap.
pub type Kernel = fn(&Channels<'_>, &mut [f32]);

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
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

    /// The exact output of a channel and the sum of magnitudes its rounding is measured by.
    fn oracle(run: &Channels<'_>, channel: usize, oy: usize, ox: usize) -> (f64, f64) {
        let w = run.window;
        let bias = f64::from(run.bias[channel]);
        let (mut sum, mut magnitude) = (bias, bias.abs());
        for ty in 0..w.kernel[0] {
            for tx in 0..w.kernel[1] {
                let y = (oy * w.stride[0] + ty * w.dilation[0]) as i64 - w.pad[0] as i64;
                let x = (ox * w.stride[1] + tx * w.dilation[1]) as i64 - w.pad[1] as i64;
                if (0..w.h as i64).contains(&y) && (0..w.w as i64).contains(&x) {
                    let weight = run.weights[(channel * w.kernel[0] + ty) * w.kernel[1] + tx];
                    let product = f64::from(weight)
                        * f64::from(run.x[channel * run.x_pitch + y as usize * w.w + x as usize]);
                    sum += product;
                    magnitude += product.abs();
                }
            }
        }
        if let Some(residual) = run.residual {
            let addend = f64::from(residual[channel * run.out_pitch + oy * w.ow + ox]);
            sum += addend;
            magnitude += addend.abs();
        }
        (sum.clamp(f64::from(run.clamp[0]), f64::from(run.clamp[1])), magnitude)
    }

    /// Runs a case with what lies between and after the planes poisoned.
    fn check(tier: Tier, kernel: Kernel, case: &Case, rng: &mut Rng) {
        let window = &case.window;
        let taps = window.kernel[0] * window.kernel[1];
        let planes = |rng: &mut Rng, plane: usize| {
            let mut values = vec![f32::NAN; case.channels * (plane + case.gap) - case.cut];
            for channel in 0..case.channels {
                values[channel * (plane + case.gap)..][..plane].copy_from_slice(&rng.floats(plane));
            }
            Aligned::from(&values, case.offset)
        };
        let (x, residual) = (planes(rng, window.h * window.w), planes(rng, window.oh * window.ow));
        let (weights, bias) = (rng.floats(taps * case.channels), rng.floats(case.channels));
        let run = Channels {
            window,
            x: &x,
            x_pitch: window.h * window.w + case.gap,
            weights: &weights,
            bias: &bias,
            residual: (rng.below(2) == 1).then_some(&residual),
            clamp: [[f32::NEG_INFINITY, f32::INFINITY], [0.0, 0.75]][rng.below(2)],
            out_pitch: window.oh * window.ow + case.gap,
        };
        let mut out = Aligned::new(residual.len(), case.offset);
        out.fill(f32::NAN);
        kernel(&run, &mut out);
        for channel in 0..case.channels {
            for oy in 0..window.oh {
                for ox in 0..window.ow {
                    let (exact, magnitude) = oracle(&run, channel, oy, ox);
                    let got = f64::from(out[channel * run.out_pitch + oy * window.ow + ox]);
                    assert!(
                        (got - exact).abs() <= sum_bound(taps + 2, magnitude),
                        "{tier} {case:?} at {channel} ({oy}, {ox}): {got} for {exact}"
                    );
                }
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

    /// One square plane with a square kernel and the padding that keeps its size.
    fn one(kernel: Kernel, x: &[f32], weights: &[f32], stride: usize) -> (Window2, Vec<f32>) {
        let (size, k) = (x.len().isqrt(), weights.len().isqrt());
        let window = Window2::padded([size; 2], [k; 2], [stride; 2], [1, 1], [[k / 2; 2]; 2], false).unwrap();
        let mut out = vec![0.0; window.oh * window.ow];
        let run = Channels {
            window: &window,
            x,
            x_pitch: 0,
            weights,
            bias: &[0.1],
            residual: None,
            clamp: [-9.0, 9.0],
            out_pitch: 0,
        };
        kernel(&run, &mut out);
        (window, out)
    }

    #[test]
    fn a_pixel_is_the_same_wherever_it_lies() {
        // A constant plane: every pixel whose window lies inside has one value, bit for bit.
        for_each_impl(TABLE, |tier, kernel| {
            for (k, stride, size) in [(3, 1, 7), (3, 1, 33), (3, 2, 33), (5, 1, 8), (5, 2, 40), (7, 1, 37)] {
                let (window, out) = one(kernel, &vec![0.3; size * size], &Rng::new(2).floats(k * k), stride);
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
                let mut x = vec![1.0; size * size];
                // The last of a row: neighbours in memory that are none in the plane must not see it.
                let (y0, x0) = (2, size - 1);
                x[y0 * size + x0] = f32::NAN;
                let (_, out) = one(kernel, &x, &[1.0; 9], 1);
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
