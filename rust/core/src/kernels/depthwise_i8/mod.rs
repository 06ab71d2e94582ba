//! `depthwise_i8`: each channel's uint8 plane convolved with an int8 kernel of its own.
//!
//! ```text
//! sum         = offset + Σ_{ty,tx} weights[ty][tx] · x[oy·sy + ty·dy - top][ox·sx + tx·dx - left]      exact, i32
//! out[oy][ox] = what strip_i8 makes of it: scale, bias, residual, rounding, bounds
//! ```
//!
//! - What lies outside the plane reads as `x_zero_point`; as `offset = -x_zero_point · Σ weights`, it adds nothing.
//! - Planes are rows without gaps. What lies between and after the planes may be read, is never used, and in `out` is
//!   undefined after a call.
//! - Every tier gives the same bits.

use super::Impl;
use super::strip_i8::{MAX_DEPTH, Output, Requant};
use super::window::{Window2, span};
use crate::isa::Tier;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod padded;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod taps;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod walk;

/// A run of channels of one image; a run shares what is worked out from the geometry.
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a> {
    /// The geometry.
    pub window: &'a Window2,
    /// The input planes, `x_pitch` apart, each `h·w` elements.
    pub x: &'a [u8],
    /// Elements from one input plane to the next; 0 where all outputs read one plane.
    pub x_pitch: usize,
    /// The byte of the input that stands for zero.
    pub x_zero_point: u8,
    /// `kernel[0]·kernel[1]` factors a channel, row by row; at most [`MAX_DEPTH`].
    pub weights: &'a [i8],
    /// What is done to sums. The entries are the run's: the number of channels is their length.
    pub requant: Requant<'a>,
    /// The residual's planes, `residual_pitch` apart, where `requant` has one.
    pub residual: &'a [u8],
    /// Elements from one residual plane to the next.
    pub residual_pitch: usize,
    /// Elements from one output plane to the next, at least `oh·ow`.
    pub out_pitch: usize,
}

impl Channels<'_> {
    /// Bytes of an output element.
    fn size(&self) -> usize {
        match self.requant.output {
            Output::U8 { .. } => 1,
            Output::F32 { .. } => 4,
        }
    }

    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// # Panics
    /// Where a slice is shorter than the window and the number of channels say, the planes of the output overlap, or
    /// float32 output is not aligned.
    fn check(&self, out: &[u8]) {
        let (window, channels) = (self.window, self.requant.offset.len());
        let outputs = window.oh * window.ow;
        assert!(self.out_pitch >= outputs || channels <= 1, "output planes overlap");
        assert!(self.x.len() >= span(channels, window.h * window.w, self.x_pitch), "the input is too short");
        let needed = span(channels, outputs, self.out_pitch).checked_mul(self.size());
        assert!(needed.is_some_and(|needed| out.len() >= needed), "the output is too short");
        assert!(self.size() == 1 || out.as_ptr().cast::<f32>().is_aligned(), "float32 output is not aligned");
        let needed = self.requant.residual.map_or(0, |_| span(channels, outputs, self.residual_pitch));
        assert!(self.residual.len() >= needed, "the residual is too short");
        assert!(self.taps() <= MAX_DEPTH, "the kernel is too large for 32 bits");
        assert_eq!(
            Some(self.weights.len()),
            channels.checked_mul(self.taps()),
            "one weight a tap and channel"
        );
        let each = [self.requant.scale.len(), self.requant.bias.len()];
        assert_eq!(each, [channels; 2], "one scale and bias a channel");
    }
}

/// Computes the channels' output planes, as bytes: uint8, or float32 in the machine's order.
///
/// # Panics
/// Where a slice is shorter than the window and the number of channels say, the planes of the output overlap, or float32
/// output is not aligned.
pub type Kernel = fn(&Channels<'_>, &mut [u8]);

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::run) },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::Residual;
    use crate::kernels::window::tests::{Case, cases};
    use crate::testing::{Aligned, Rng, for_each_impl};

    /// What the contract says of one output, in the plainest steps.
    fn oracle(run: &Channels<'_>, channel: usize, oy: usize, ox: usize) -> f32 {
        let w = run.window;
        let mut sum = i64::from(run.requant.offset[channel]);
        for ty in 0..w.kernel[0] {
            for tx in 0..w.kernel[1] {
                let y = (oy * w.stride[0] + ty * w.dilation[0]) as i64 - w.pad[0] as i64;
                let x = (ox * w.stride[1] + tx * w.dilation[1]) as i64 - w.pad[1] as i64;
                let inside = (0..w.h as i64).contains(&y) && (0..w.w as i64).contains(&x);
                let value = if inside {
                    run.x[channel * run.x_pitch + y as usize * w.w + x as usize]
                } else {
                    run.x_zero_point
                };
                sum +=
                    i64::from(value) * i64::from(run.weights[channel * run.taps() + ty * w.kernel[1] + tx]);
            }
        }
        let mut y = i32::try_from(sum).unwrap() as f32 * run.requant.scale[channel];
        y += run.requant.bias[channel];
        if let Some(Residual { scale, zero_point }) = run.requant.residual {
            let q = run.residual[channel * run.residual_pitch + oy * w.ow + ox];
            y += (f32::from(q) - f32::from(zero_point)) * scale;
        }
        match run.requant.output {
            Output::U8 { zero_point, lo, hi } => {
                let q = (f64::from(y).round_ties_even() + f64::from(zero_point))
                    .clamp(f64::from(lo), f64::from(hi));
                q as f32
            }
            Output::F32 { lo, hi } => y.clamp(lo, hi),
        }
    }

    fn check(tier: Tier, kernel: Kernel, case: &Case, extreme: bool, rng: &mut Rng) {
        let window = &case.window;
        let taps = window.kernel[0] * window.kernel[1];
        let outputs = window.oh * window.ow;
        let byte = |rng: &mut Rng| if extreme { [0, 255][rng.below(2)] } else { rng.below(256) as u8 };
        let bytes = |rng: &mut Rng, plane: usize| {
            let made: Vec<u8> =
                (0..case.channels * (plane + case.gap) - case.cut).map(|_| byte(rng)).collect();
            Aligned::from(&made, case.offset)
        };
        let (x, residual) = (bytes(rng, window.h * window.w), bytes(rng, outputs));
        let weights: Vec<i8> = (0..taps * case.channels)
            .map(|_| if extreme { [i8::MIN, i8::MAX][rng.below(2)] } else { rng.below(256) as u8 as i8 })
            .collect();
        let x_zero_point = byte(rng);
        let offset: Vec<i32> = weights
            .chunks_exact(taps)
            .map(|kernel| -i32::from(x_zero_point) * kernel.iter().map(|&w| i32::from(w)).sum::<i32>())
            .collect();
        // Scales at which sums land in the byte's range and on its halves, or far outside it.
        let scale: Vec<f32> = (0..case.channels)
            .map(|_| {
                [0.5 / taps as f32, 1.0 / 512.0, 0.003 * rng.float(), 1e30]
                    [rng.below(if extreme { 4 } else { 3 })]
            })
            .collect();
        let bias: Vec<f32> =
            (0..case.channels).map(|_| [0.0, 0.5, 40.0 * rng.float()][rng.below(3)]).collect();
        let (lo, hi) = [(0, 255), (3, 200), (128, 128)][rng.below(3)];
        let run = Channels {
            window,
            x: &x,
            x_pitch: window.h * window.w + case.gap,
            x_zero_point,
            weights: &weights,
            requant: Requant {
                offset: &offset,
                scale: &scale,
                bias: &bias,
                residual: (rng.below(3) == 0)
                    .then(|| Residual { scale: [0.5, 0.37][rng.below(2)], zero_point: byte(rng) }),
                output: [
                    Output::U8 { zero_point: byte(rng), lo, hi },
                    Output::U8 { zero_point: 128, lo: 0, hi: 255 },
                    Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
                    Output::F32 { lo: 0.0, hi: 6.0 },
                ][rng.below(4)],
            },
            residual: &residual,
            residual_pitch: outputs + case.gap,
            out_pitch: outputs + case.gap,
        };
        let size = run.size();
        let mut out = Aligned::new(residual.len() * size, case.offset * size);
        kernel(&run, &mut out);
        for channel in 0..case.channels {
            for oy in 0..window.oh {
                for ox in 0..window.ow {
                    let at = channel * run.out_pitch + oy * window.ow + ox;
                    let got = match size {
                        1 => f32::from(out[at]),
                        _ => f32::from_ne_bytes(out[4 * at..][..4].try_into().unwrap()),
                    };
                    let exact = oracle(&run, channel, oy, ox);
                    assert!(
                        got == exact,
                        "{tier} {case:?} at {channel} ({oy}, {ox}): {got} for {exact} {:?}",
                        run.requant
                    );
                }
            }
        }
    }

    #[test]
    fn every_tier_agrees_with_the_contract() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut rng = Rng::new(1);
            for (i, case) in cases().iter().enumerate() {
                check(tier, kernel, case, i % 4 == 0, &mut rng);
            }
        });
    }
}
