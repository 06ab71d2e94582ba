//! `conv`: convolution over one or two axes, with bias, addend and activation.
//!
//! `y = activation(conv(x, w) + b + residual)`. The weight is a matrix `(out, in/groups·kh·kw)`, its columns in torch's
//! order; or, where every channel has filters of its own, plain numbers `(out, kh·kw)`.

#![allow(unsafe_code, reason = "strips of one output are written by several threads")]

mod winograd;

use super::activation::{self, Activation, Apply};
use super::cut::{Outputs, Parts, Piece};
use super::product::{Chain, Window};
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::{Error, Result, ensure};
use crate::isa::Tier;
use crate::kernels::pack::{self, Fill, LANES_F32, Taps};
use crate::kernels::strip::LANES;
use crate::kernels::window::Window2;
use crate::kernels::{depthwise_f32, pick};
use crate::pool::{Ranges, split};
use crate::tensor::{DType, Meta, Planes};
use crate::weight::{Matrix, Plain};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where the taps of a convolution lie; one entry an axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Taps.
    pub kernel: Vec<usize>,
    /// Inputs from one output to the next.
    pub stride: Vec<usize>,
    /// Zeros before and after.
    pub padding: Vec<[usize; 2]>,
    /// Inputs from one tap to the next.
    pub dilation: Vec<usize>,
    /// Groups of channels that see only each other.
    pub groups: usize,
}

impl Geometry {
    /// The window over a value `(n, channels, *plane)` of one or two axes.
    ///
    /// # Errors
    /// [`Error::Graph`] where the attributes do not fit the rank; [`Error::Shape`] where the kernel does not fit the input.
    pub fn window(&self, x: &Meta) -> Result<Window2> {
        let axes = x.shape.len().wrapping_sub(2);
        let fits = (1..=2).contains(&axes)
            && [self.kernel.len(), self.stride.len(), self.padding.len(), self.dilation.len()] == [axes; 4];
        ensure!(
            fits,
            Graph,
            "input {x}: expected rank 3 or 4, and kernel, stride, padding, dilation of its axes"
        );
        // A sequence is a plane of one row.
        let pair = |values: &[usize], first: usize| {
            if axes == 1 { [first, values[0]] } else { [values[0], values[1]] }
        };
        let padding = if axes == 1 { [[0, 0], self.padding[0]] } else { [self.padding[0], self.padding[1]] };
        let window = Window2::padded(
            pair(&x.shape[2..], 1),
            pair(&self.kernel, 1),
            pair(&self.stride, 1),
            pair(&self.dilation, 1),
            padding,
            false,
        );
        window.ok_or_else(|| {
            Error::Shape(format!(
                "input {x}: a kernel of {:?} with dilation {:?} and padding {:?} does not fit in it",
                self.kernel, self.dilation, self.padding
            ))
        })
    }

    /// The output's shape for `m` channels.
    pub fn output(&self, x: &Meta, m: usize) -> Result<Vec<usize>> {
        let [oh, ow] = self.window(x)?.output();
        let plane: &[usize] = if x.shape.len() == 3 { &[ow] } else { &[oh, ow] };
        Ok([&[x.shape[0], m], plane].concat())
    }

    /// Rows and columns of the weight, operand 1: filters of a type where each channel has its own, else the matrix that
    /// `matrix` takes of the operands.
    ///
    /// # Errors
    /// Those of [`Geometry::window`] and of `matrix`; [`Error::Graph`] where channels or the weight do not fit.
    pub fn weight<'a>(
        &self,
        args: &Args<'a>,
        filters: DType,
        matrix: impl FnOnce(&Args<'a>) -> Result<&'a Arc<Matrix>>,
    ) -> Result<(usize, usize)> {
        let (x, groups) = (args.meta(0)?, self.groups);
        let window = self.window(x)?;
        let (channels, taps) = (x.shape[1], window.kernel()[0] * window.kernel()[1]);
        ensure!(
            groups > 0 && channels.is_multiple_of(groups),
            Graph,
            "input {x}: its channels are no {groups} groups"
        );
        let k = (channels / groups).saturating_mul(taps);
        let m = if self.is_depthwise(x) {
            let m = args.meta(1)?.shape.first().copied().unwrap_or(0);
            args.plain(1, filters, m.saturating_mul(taps))?;
            m
        } else {
            let weight = matrix(args)?;
            ensure!(
                weight.k() == k && weight.groups() == groups && k > 0,
                Graph,
                "weight is {} x {} in {} groups, input {x} wants {k} columns in {groups}",
                weight.m(),
                weight.k(),
                weight.groups()
            );
            weight.m()
        };
        ensure!(m.is_multiple_of(groups), Graph, "{m} output channels are no {groups} groups");
        Ok((m, k))
    }

    /// Whether each channel has filters of its own.
    pub fn is_depthwise(&self, x: &Meta) -> bool {
        self.groups > 1 && x.shape.get(1) == Some(&self.groups)
    }

    /// Whether output pixel `p` of a channel reads input pixel `p` and nothing else.
    pub fn is_pointwise(&self) -> bool {
        let ones = |values: &[usize]| values.iter().all(|&v| v == 1);
        ones(&self.kernel) && ones(&self.stride) && self.padding.iter().all(|&p| p == [0, 0])
    }
}

/// Attributes of `conv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Where the taps lie.
    #[serde(flatten)]
    pub geometry: Geometry,
    /// Applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
}

impl Operator for Conv {
    const ARITY: (usize, usize) = (2, 4);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, geometry) = (args.meta(0)?, &self.geometry);
        ensure!(x.dtype == DType::Float32, Graph, "input {x}: expected float32");
        let (m, _) = geometry.weight(args, DType::Float32, |args| args.matrix(1))?;
        args.optional(2, DType::Float32, m)?;
        let output = Meta::new(DType::Float32, geometry.output(x, m)?);
        if args.has(3) {
            let residual = args.meta(3)?;
            ensure!(*residual == output, Graph, "residual is {residual}, expected {output}");
        }
        Ok(vec![output])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Features
    }

    fn by_channels(&self, args: &Args<'_>) -> bool {
        args.meta(0).is_ok_and(|x| self.geometry.is_depthwise(x))
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let out = &site.outputs[0];
        let run = Run {
            window: self.geometry.window(x)?,
            groups: self.geometry.groups,
            from: Planes::of(x, site.layouts[0]),
            to: Planes::of(out, site.layout),
            bias: site.args.optional(2, DType::Float32, out.shape[1])?.cloned(),
            residual: site.args.has(3),
            clamp: activation::clamp(self.activation),
            activation: Apply::of(self.activation, site.tier),
        };
        // The residual lies as the output does: both were asked for as features.
        debug_assert!(!run.residual || site.layouts.get(3) == Some(&site.layout));
        if self.geometry.is_depthwise(x) {
            let weight = Arc::clone(site.args.plain(1, DType::Float32, out.shape[1] * run.taps())?);
            return Ok(run.depthwise(weight, site).into());
        }
        if run.suits_winograd(site.args.matrix(1)?, site) {
            return Ok(run.winograd(site)?.into());
        }
        Ok(run.strips(&self.geometry, site)?.into())
    }
}

/// What both ways of computing need.
struct Run {
    window: Window2,
    groups: usize,
    from: Planes,
    to: Planes,
    bias: Option<Arc<Plain>>,
    residual: bool,
    clamp: [f32; 2],
    activation: Option<Apply>,
}

impl Run {
    fn taps(&self) -> usize {
        self.window.kernel()[0] * self.window.kernel()[1]
    }

    /// Each channel by itself, runs of channels spread over the threads.
    fn depthwise(self, weight: Arc<Plain>, site: &Site<'_>) -> Step {
        let (tier, kernel) = pick(depthwise_f32::TABLE, site.tier);
        let (from, to, taps) = (self.from, self.to, self.taps());
        let flops = 2.0 * taps as f64 * (to.n * to.channels * to.plane) as f64;
        let weight_bytes = weight.bytes.len();
        let runs = Runs::new(from.channels, to.channels, to.pitch, site.threads);
        let none = vec![0.0; to.channels];
        let mut step = Step::new(format!("depthwise_f32/{tier}"), move |frame: &Frame<'_>| {
            let (x, weights) = (frame.input::<f32>(0), weight.of::<f32>());
            let bias = self.bias.as_ref().map_or(none.as_slice(), |bias| bias.of::<f32>());
            let residual = self.residual.then(|| frame.input::<f32>(3));
            let out = super::frame::Shared(frame.output_ptr::<f32>(0));
            frame.pool.run(to.n * runs.count(), &|item, _| {
                let (image, run) = (item / runs.count(), runs.at(item % runs.count()));
                let source = (image * from.channels + run.source) * from.pitch;
                let (start, end) = (image * to.channels + run.first, image * to.channels + run.last);
                let call = depthwise_f32::Channels {
                    window: &self.window,
                    x: &x[source..],
                    x_pitch: if run.same { 0 } else { from.pitch },
                    weights: &weights[run.first * taps..run.last * taps],
                    bias: &bias[run.first..run.last],
                    residual: residual.map(|residual| &residual[start * to.pitch..end * to.pitch]),
                    clamp: self.clamp,
                    out_pitch: to.pitch,
                };
                // SAFETY: the output holds that many planes a pitch apart; each run is one item's.
                let out = unsafe { out.part(start * to.pitch, end * to.pitch) };
                kernel(&call, out);
                if let Some(activation) = self.activation {
                    activation.to(out);
                }
            });
        });
        step.flops = flops;
        step.weight_bytes = weight_bytes;
        step
    }

    /// As a product of the weight and a panel of what the taps see.
    fn strips(self, geometry: &Geometry, site: &Site<'_>) -> Result<Step> {
        let matrix = site.args.matrix(1)?;
        let (from, to, groups, taps) = (self.from, self.to, self.groups, self.taps());
        let chain = Chain::new(matrix, to.plane, site.tier)?;
        let (_, fill) = pick(pack::TABLE_F32, site.tier);
        let (depth, m) = (from.channels / groups, to.channels / groups);
        // Where a strip of the input is what the taps see it is read in place: its rows are whole vectors, being features.
        let direct = geometry.is_pointwise();
        let parts = chain.parts(direct);
        let nr = chain.nr();
        let (products, columns) = (to.n * groups, to.plane);
        let outputs = Outputs { products, m, columns, nr, grain: LANES, threads: site.threads, parts };
        let by_rows = site.by_channels && groups == 1 && parts == Parts::Free;
        let cut = by_rows.then(|| outputs.cut_by_rows()).flatten().unwrap_or_else(|| outputs.cut());
        let panel_len = if direct { 0 } else { chain.panel() };
        let scratch = (panel_len + chain.scratch()) * size_of::<f32>();
        let (name, reason, flops, bytes) = (chain.name(), chain.reason(), chain.flops(), chain.bytes());
        let moved = from.n * from.channels * from.pitch
            + to.n * to.channels * to.pitch * if self.residual { 2 } else { 1 };
        let gathered = if direct { 0 } else { matrix.k() };
        let estimate = chain.estimate(cut.strips, products, gathered, moved * size_of::<f32>());
        let mut step = Step::new(name, move |frame: &Frame<'_>| {
            let x = frame.input::<f32>(0).as_ptr();
            let residual = if self.residual { frame.input::<f32>(3).as_ptr() } else { std::ptr::null() };
            let out = super::frame::Shared(frame.output_ptr::<f32>(0));
            let (x, residual) =
                (super::frame::Shared(x.cast_mut()), super::frame::Shared(residual.cast_mut()));
            let bias = self.bias.as_ref().map(|bias| bias.of::<f32>());
            frame.pool.run(cut.items(), &|item, worker| {
                let Piece { product, columns: (p0, p1), rows } = cut.at(item);
                let (image, group) = (product / groups, product % groups);
                let n = p1 - p0;
                let planes = x.get().wrapping_add((image * from.channels + group * depth) * from.pitch);
                let at = (image * to.channels + group * m) * to.pitch + p0;
                let panel = frame.scratch_ptr::<f32>(worker);
                let scratch = panel.wrapping_add(panel_len);
                let add = residual.get();
                let window = Window {
                    group,
                    rows,
                    n,
                    out: out.get().wrapping_add(at),
                    out_stride: to.pitch,
                    residual: if add.is_null() { add } else { add.wrapping_add(at) },
                    bias,
                    clamp: self.clamp,
                };
                let seen = (!direct).then(|| Taps::new(&self.window, (p0, n), LANES_F32));
                let gather = |start: usize, end: usize| {
                    let Some(seen) = &seen else {
                        return (planes.wrapping_add(start * from.pitch + p0).cast_const(), from.pitch);
                    };
                    for tap in 0..taps {
                        // Columns go channel by channel, a channel's taps together.
                        let (first, last) = ((start + taps - 1 - tap) / taps, (end + taps - 1 - tap) / taps);
                        if first < last {
                            let call = Fill {
                                taps: seen,
                                tap,
                                x: planes.wrapping_add(first * from.pitch).cast_const(),
                                pitch: from.pitch,
                                channels: last - first,
                                out: panel.wrapping_add((first * taps + tap - start) * nr),
                                out_stride: taps * nr,
                                padding: 0.0,
                            };
                            // SAFETY: the tier's token was found by `pick`; planes `first..last` of the group are there, and
                            // the panel has a row of whole vectors for each column of the block.
                            unsafe { fill(&call) };
                        }
                    }
                    (panel.cast_const(), nr)
                };
                // SAFETY: rows of the output and of the panel are whole vectors; each item has its own window, and each
                // worker its own scratch.
                unsafe { chain.strip(&window, scratch, gather) };
                if let Some(activation) = self.activation {
                    for r in rows.0..rows.1 {
                        // SAFETY: these pixels of row `r` are this item's, and were just computed.
                        activation.to(unsafe { out.part(at + r * to.pitch, at + r * to.pitch + n) });
                    }
                }
            });
        });
        step.reason = reason;
        step.estimate = estimate;
        step.scratch = scratch;
        step.flops = flops * (to.n * to.plane) as f64;
        step.weight_bytes = bytes;
        Ok(step)
    }
}

/// How the output channels of a depthwise convolution are cut into runs for the threads.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    /// Input channels of the runs.
    sources: Ranges,
    /// Output channels of one input channel.
    per_source: usize,
}

/// Output channels `first..last`, the first of which reads input channel `source`.
pub(super) struct ChannelRun {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) source: usize,
    /// All read that one channel; otherwise each the next.
    pub(super) same: bool,
}

impl Runs {
    /// Runs of some tens of kilobytes, as many for each thread: the counter is seldom touched.
    pub(super) fn new(sources: usize, channels: usize, pitch: usize, threads: usize) -> Runs {
        let per_source = channels / sources;
        let len = (16 * 1024 / pitch.max(1)).max(1);
        let runs = if per_source > 1 { sources } else { sources.div_ceil(len).next_multiple_of(threads) };
        Runs { sources: split(sources, runs, 1), per_source }
    }

    pub(super) fn count(self) -> usize {
        self.sources.len()
    }

    pub(super) fn at(self, run: usize) -> ChannelRun {
        let (start, end) = self.sources.at(run);
        let (first, last) = (start * self.per_source, end * self.per_source);
        ChannelRun { first, last, source: start, same: self.per_source > 1 }
    }
}
