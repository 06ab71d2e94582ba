//! A 3 x 3 convolution as 36 products, where that was asked for: it rounds otherwise than the sum that it stands for.

use super::Run;
use crate::error::Result;
use crate::kernels::strip::{Epilogue, LANES, Strip};
use crate::kernels::winograd_f32::{self, Give, POINTS, Take};
use crate::kernels::{gemm_f32, pick};
use crate::ops::frame::Shared;
use crate::ops::{Frame, Site, Step};
use crate::pool::split;
use crate::tensor::DType;
use crate::weight::{Matrix, Structure};

/// Tiles of a strip: what they are turned into stays in the outer caches.
const STRIP: usize = 64;
/// Channels a thread turns at a time.
const CHANNELS: usize = 8;
/// Fewest channels, of input and output, for which fewer multiplications outweigh the turning.
const FEWEST: usize = 32;

impl Run {
    /// Whether the sum may be had from 36 products, and faster.
    pub(super) fn suits_winograd(&self, matrix: &Matrix, site: &Site<'_>) -> bool {
        let dense = matches!(matrix.structure(), Structure::Dense(_)) && matrix.dtype() == DType::Float32;
        let wide = self.groups == 1 && self.from.channels.min(self.to.channels) >= FEWEST;
        // With few tiles the weights of 36 points, four times the filter's, are what is waited for.
        let many = |[down, across]: [usize; 2]| down * across >= 2 * LANES;
        site.winograd && dense && wide && winograd_f32::tiles(&self.window).is_some_and(many)
    }

    /// Strip by strip: all channels turned into points, a product a point, and the sums turned into pixels.
    pub(super) fn winograd(self, site: &Site<'_>) -> Result<Step> {
        let matrix = site.args.matrix(1)?;
        let (from, to) = (self.from, self.to);
        let (c, m) = (from.channels, to.channels);
        let points = matrix.form("winograd", |matrix| {
            let points = winograd_f32::points(&matrix.to_rows::<f32>(), m, c);
            let points = Matrix::dense((POINTS * m, c, POINTS), &points, None)?;
            let bytes = points.bytes();
            Ok((points, bytes))
        })?;
        let (tier, kernels) = pick(winograd_f32::TABLE, site.tier);
        let kernels = kernels();
        let (_, gemm) = pick(gemm_f32::TABLE, site.tier);
        let [down, across] = winograd_f32::tiles(&self.window).unwrap_or_default();
        let strips = split(down * across, (down * across).div_ceil(STRIP), LANES);
        let apart = (0..strips.len()).map(|i| strips.at(i)).map(|(a, b)| b - a).max().unwrap_or(0);
        let apart = apart.next_multiple_of(LANES);
        // The threads of a strip share its points, in what is the scratch of all.
        let scratch = (POINTS * (c + m) * apart * size_of::<f32>()).div_ceil(site.threads);
        let (flops, bytes) = (2.0 * (POINTS * c * m * down * across * to.n) as f64, points.bytes());
        let mut step = Step::new(format!("winograd_f32/{tier}"), move |frame: &Frame<'_>| {
            let x = frame.input::<f32>(0);
            let residual = self.residual.then(|| frame.input::<f32>(3));
            let bias = self.bias.as_ref().map(|bias| bias.of::<f32>());
            let out = Shared(frame.output_ptr::<f32>(0));
            let taken = Shared(frame.scratch_ptr::<f32>(0));
            let sums = Shared(taken.get().wrapping_add(POINTS * c * apart));
            for (image, strip) in
                (0..to.n).flat_map(|image| (0..strips.len()).map(move |strip| (image, strip)))
            {
                let tiles = strips.at(strip);
                let channels = split(c, c.div_ceil(CHANNELS), 1);
                frame.pool.run(channels.len(), &|item, _| {
                    let (start, end) = channels.at(item);
                    for channel in start..end {
                        let take = Take {
                            window: &self.window,
                            x: &x[(image * c + channel) * from.pitch..],
                            tiles,
                            points: taken.get().wrapping_add(channel * apart),
                            apart: c * apart,
                        };
                        // SAFETY: the table gave the kernel; scratch holds the points of every channel, and these are this
                        // item's.
                        unsafe { (kernels.take)(&take) };
                    }
                });
                frame.pool.run(POINTS, &|point, _| {
                    for start in (0..c).step_by(gemm.kb) {
                        let end = (start + gemm.kb).min(c);
                        let strip = Strip {
                            weight: points.tiles::<f32>(point),
                            rows: (0, m),
                            block: (start, end),
                            panel: taken.get().wrapping_add((point * c + start) * apart).cast_const(),
                            panel_stride: apart,
                            n: tiles.1 - tiles.0,
                            out: sums.get().wrapping_add(point * m * apart),
                            out_stride: apart,
                            residual: std::ptr::null(),
                            epilogue: Epilogue::NONE,
                            first: start == 0,
                            last: end == c,
                        };
                        // SAFETY: the points of all channels were taken, in rows of whole vectors; the sums of this point are
                        // this item's.
                        unsafe { (gemm.run)(&strip) };
                    }
                });
                let rows = split(m, m.div_ceil(CHANNELS), 1);
                frame.pool.run(rows.len(), &|item, _| {
                    let (start, end) = rows.at(item);
                    for row in start..end {
                        let at = (image * m + row) * to.pitch;
                        // SAFETY: this plane of the output is this item's.
                        let plane = unsafe { out.part(at, at + to.plane) };
                        let mut give = Give {
                            window: &self.window,
                            points: sums.get().wrapping_add(row * apart).cast_const(),
                            apart: m * apart,
                            tiles,
                            bias: bias.map_or(0.0, |bias| bias[row]),
                            residual: residual.map(|residual| &residual[at..at + to.plane]),
                            clamp: self.clamp,
                            out: plane,
                        };
                        // SAFETY: the table gave the kernel, and the sums are finished.
                        unsafe { (kernels.give)(&mut give) };
                        if strip + 1 == strips.len()
                            && let Some(activation) = self.activation
                        {
                            activation.to(give.out);
                        }
                    }
                });
            }
        });
        "by Winograd F(4 x 4, 3 x 3), as asked".clone_into(&mut step.reason);
        step.scratch = scratch;
        step.flops = flops;
        step.weight_bytes = bytes;
        Ok(step)
    }
}
