//! `pool_i8`: the greatest or the average of what a window sees of one plane of bytes.
//!
//! ```text
//! max      out = the greatest byte                                            exact: input and output mean the same
//! average  out = clamp(rint(f32(Σ (x - x_zero_point)) · f32(scale / count)) + zero_point, lo, hi)
//! ```
//!
//! The sum is exact, then converted, then multiplied, each rounded once; the factor is divided in float64 and rounded once;
//! `rint` is half to even. `count` is what [`Divisor`] says; padding is never the greatest and adds nothing to the sum.
//! Planes are rows without gaps; slices may be longer, and elements of `out` beyond the plane are not written. Every tier
//! gives the same bits.

use super::strip_i8::quantize;
use super::{Impl, window::Window2};
use crate::isa::Tier;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod rows;

pub use super::pool_f32::Divisor;
use super::pool_f32::slide;

/// From the bytes of the input to those of the output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rescale {
    /// The byte of the input that stands for zero.
    pub x_zero_point: u8,
    /// What one step of the input is worth, in steps of the output.
    pub scale: f32,
    /// The byte of the output that stands for zero.
    pub zero_point: u8,
    /// Least byte.
    pub lo: u8,
    /// Greatest byte, not below `lo`.
    pub hi: u8,
}

impl Rescale {
    /// What one unit of a sum of `count` is worth.
    fn factor(self, count: usize) -> f32 {
        (f64::from(self.scale) / count as f64) as f32
    }

    #[allow(
        clippy::inline_always,
        reason = "what is inlined takes on the features of the tier that calls it"
    )]
    #[inline(always)]
    fn byte(self, sum: f32, factor: f32) -> u8 {
        quantize(sum * factor, self.zero_point, self.lo, self.hi)
    }
}

/// The kernels of a tier; each computes one plane and panics where a slice is shorter than its plane.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// `max(window, x, out)`: the greatest byte of each window.
    pub max: fn(&Window2, &[u8], &mut [u8]),
    /// `average(window, divisor, rescale, x, out)`: the average of each window, of at most 2²³ taps.
    pub average: fn(&Window2, Divisor, Rescale, &[u8], &mut [u8]),
    /// `mean(x, rescale)`: the average of all elements.
    pub mean: fn(&[u8], Rescale) -> u8,
}

/// The implementations, best first. On ARM the scalar tier is compiled with NEON.
pub static TABLE: &[Impl<Kernels>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    Impl {
        tier: Tier::Scalar,
        get: || Some(Kernels { max: rows::max, average: rows::average, mean: rows::mean }),
    },
];

/// Adaptive pooling of a plane of `input` rows and columns to `output`: the greatest byte of each of torch's windows.
///
/// # Panics
/// Where a slice is shorter than its plane.
pub fn adaptive_max(input: [usize; 2], output: [usize; 2], x: &[u8], out: &mut [u8]) {
    adaptive(input, output, x, out, |bytes| bytes.max().unwrap_or(0));
}

/// Adaptive pooling of a plane of `input` rows and columns to `output`: the average of each of torch's windows.
///
/// # Panics
/// Where a slice is shorter than its plane.
pub fn adaptive_average(input: [usize; 2], output: [usize; 2], rescale: Rescale, x: &[u8], out: &mut [u8]) {
    adaptive(input, output, x, out, |bytes| {
        let add = |(sum, count), x| (sum + i64::from(x) - i64::from(rescale.x_zero_point), count + 1);
        let (sum, count) = bytes.fold((0i64, 0usize), add);
        rescale.byte(sum as f32, rescale.factor(count))
    });
}

/// Gives the bytes of each window to `join`.
fn adaptive(
    [h, w]: [usize; 2],
    [oh, ow]: [usize; 2],
    x: &[u8],
    out: &mut [u8],
    join: impl Fn(&mut dyn Iterator<Item = u8>) -> u8,
) {
    for oy in 0..oh {
        for ox in 0..ow {
            let columns = slide::adaptive(w, ow, ox);
            let rows = slide::adaptive(h, oh, oy).map(|row| &x[row * w..][columns.clone()]);
            out[oy * ow + ox] = join(&mut rows.flatten().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::window::tests::{cases, seen};
    use crate::testing::{Aligned, Rng, for_each_impl};

    /// The contract's formula, in the plainest steps.
    fn exact(values: &[u8], count: usize, how: Rescale) -> u8 {
        let sum: i64 = values.iter().map(|&x| i64::from(x) - i64::from(how.x_zero_point)).sum();
        let y = sum as f32 * (f64::from(how.scale) / count as f64) as f32;
        let q = f64::from(y).round_ties_even() + f64::from(how.zero_point);
        q.clamp(f64::from(how.lo), f64::from(how.hi)) as u8
    }

    fn rescale(rng: &mut Rng) -> Rescale {
        let (lo, hi) = [(0, 255), (10, 240), (7, 7)][rng.below(3)];
        let scale = [1.0, 0.5, 1.7, 1e20][rng.below(4)];
        Rescale { x_zero_point: rng.below(256) as u8, scale, zero_point: rng.below(256) as u8, lo, hi }
    }

    #[test]
    fn every_tier_pools_as_the_contract_says() {
        for_each_impl(TABLE, |tier, kernels| {
            let mut rng = Rng::new(3);
            for case in cases() {
                let window = &case.window;
                let extreme = rng.below(4) == 0;
                let bytes: Vec<u8> = (0..window.h * window.w + case.gap)
                    .map(|_| if extreme { [0, 255][rng.below(2)] } else { rng.below(256) as u8 })
                    .collect();
                let x = Aligned::from(&bytes, case.offset);
                let mut out = Aligned::new(window.oh * window.ow + case.gap, case.offset);
                let after = [rng.below(3), rng.below(3)];
                (kernels.max)(window, &x, &mut out);
                for (i, &got) in out[..window.oh * window.ow].iter().enumerate() {
                    let (values, _) = seen(window, after, &x, i / window.ow, i % window.ow);
                    assert_eq!(got, values.into_iter().max().unwrap_or(0), "{tier} {case:?} at {i}");
                }
                for divisor in [Divisor::Inside, Divisor::Padded { after }, Divisor::Fixed(5)] {
                    let how = rescale(&mut rng);
                    (kernels.average)(window, divisor, how, &x, &mut out);
                    for (i, &got) in out[..window.oh * window.ow].iter().enumerate() {
                        let (values, padding) = seen(window, after, &x, i / window.ow, i % window.ow);
                        let count = match divisor {
                            Divisor::Inside => values.len(),
                            Divisor::Padded { .. } => values.len() + padding,
                            Divisor::Fixed(count) => count,
                        };
                        if count > 0 {
                            let want = exact(&values, count, how);
                            assert_eq!(got, want, "{tier} {case:?} {divisor:?} {how:?} at {i}");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn a_mean_is_exact_on_every_tier() {
        for_each_impl(TABLE, |tier, kernels| {
            let mut rng = Rng::new(4);
            for n in [1, 2, 15, 16, 49, 64, 196, 1000, 3_000_000] {
                let x: Vec<u8> = (0..n).map(|_| rng.below(256) as u8).collect();
                let how = rescale(&mut rng);
                assert_eq!((kernels.mean)(&x, how), exact(&x, n, how), "{tier} {n} {how:?}");
            }
        });
    }

    #[test]
    fn adaptive_windows_are_torchs() {
        let how = Rescale { x_zero_point: 0, scale: 1.0, zero_point: 0, lo: 0, hi: 255 };
        let mut out = [0; 3];
        adaptive_average([1, 7], [1, 3], how, &[0, 1, 2, 3, 4, 5, 6], &mut out);
        assert_eq!(out, [1, 3, 5]);
        adaptive_max([1, 7], [1, 3], &[0, 1, 2, 3, 4, 5, 6], &mut out);
        assert_eq!(out, [2, 4, 6]);
    }
}
