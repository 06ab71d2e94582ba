//! `softmax`, `layer_norm`, `group_norm`, and `affine`, the batch-norm that no convolution took in.

#![allow(unsafe_code, reason = "the operand may be the output")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::kernels::map::{self, Map};
use crate::kernels::pick;
use crate::kernels::reduce::norm::{self, Group, Norm};
use crate::kernels::reduce::{Dims, softmax};
use crate::tensor::{DType, Meta, Planes};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

fn float(args: &Args<'_>) -> Result<Meta> {
    let x = args.meta(0)?;
    ensure!(x.dtype == DType::Float32, Graph, "input {x}: expected float32");
    Ok(x.clone())
}

/// Parts of some tens of kilobytes among `outer` independent ones of `each` elements.
fn grouped(outer: usize, each: usize) -> usize {
    (16 * 1024 / each.max(1)).clamp(1, outer.max(1))
}

/// Attributes of `softmax`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Softmax {
    /// The axis that sums to one.
    pub axis: usize,
    /// Whether the logarithm is wanted.
    #[serde(default)]
    pub log: bool,
}

impl Operator for Softmax {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = float(args)?;
        ensure!(self.axis < x.shape.len(), Graph, "input {x} has no axis {}", self.axis);
        Ok(vec![x])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let log = self.log;
        let dims = Dims::new(
            x.shape[..self.axis].iter().product(),
            x.shape[self.axis],
            x.shape[self.axis + 1..].iter().product(),
        );
        let (tier, kernel) = pick(softmax::TABLE, site.tier);
        let each = dims.axis * dims.inner;
        let group = grouped(dims.outer, each);
        // One array of many columns is cut along them, a cache line's at least.
        let wide =
            if dims.outer == 1 { grouped(dims.inner, dims.axis).next_multiple_of(16) } else { dims.inner };
        let mut step = Step::new(format!("softmax/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (Shared(frame.input_ptr::<f32>(0).cast_mut()), Shared(frame.output_ptr::<f32>(0)));
            if wide < dims.inner {
                frame.pool.run(dims.inner.div_ceil(wide), &|item, _| {
                    let columns = item * wide..((item + 1) * wide).min(dims.inner);
                    let (first, part) = (columns.start, dims.columns(columns));
                    // SAFETY: both hold the array and are the same or apart; each range of columns is one item's.
                    unsafe { kernel(log, part, x.get().add(first), out.get().add(first)) };
                });
                return;
            }
            frame.pool.run(dims.outer.div_ceil(group), &|item, _| {
                let first = item * group;
                let part = Dims { outer: group.min(dims.outer - first), ..dims };
                // SAFETY: both hold the array and are the same or apart; each part is one item's.
                unsafe { kernel(log, part, x.get().add(first * each), out.get().add(first * each)) };
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}

/// Attributes of `layer_norm`: over the last `dims` dimensions, scaled and shifted by operands 1 and 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// How many trailing dimensions are normalised together.
    pub dims: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Without taking the mean away: RMS normalisation.
    #[serde(default)]
    pub rms: bool,
}

impl Operator for LayerNorm {
    const ARITY: (usize, usize) = (1, 3);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = float(args)?;
        ensure!(self.dims <= x.shape.len(), Graph, "input {x} has no {} dimensions", self.dims);
        let n = x.shape[x.shape.len() - self.dims..].iter().product();
        args.optional(1, DType::Float32, n)?;
        args.optional(2, DType::Float32, n)?;
        Ok(vec![x])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let (outer, inner) = x.shape.split_at(x.shape.len() - self.dims);
        let (rows, n): (usize, usize) = (outer.iter().product(), inner.iter().product());
        let (scale, shift) = (
            site.args.optional(1, DType::Float32, n)?.cloned(),
            site.args.optional(2, DType::Float32, n)?.cloned(),
        );
        let (eps, center) = (self.eps, !self.rms);
        let (tier, kernel) = pick(norm::LAYER, site.tier);
        let group = grouped(rows, n);
        let mut step = Step::new(format!("layer_norm/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (Shared(frame.input_ptr::<f32>(0).cast_mut()), Shared(frame.output_ptr::<f32>(0)));
            let norm = Norm {
                eps,
                center,
                scale: scale.as_ref().map(|scale| scale.of::<f32>()),
                shift: shift.as_ref().map(|shift| shift.of::<f32>()),
            };
            frame.pool.run(rows.div_ceil(group), &|item, _| {
                let first = item * group;
                let dims = Dims::rows(group.min(rows - first), n);
                // SAFETY: both hold the rows and are the same or apart; each part is one item's.
                unsafe { kernel(&norm, dims, x.get().add(first * n), out.get().add(first * n)) };
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}

/// Attributes of `group_norm`: channels of `(n, channels, *)` in groups, scaled and shifted by operands 1 and 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNorm {
    /// Groups; as many as channels for instance normalisation.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl Operator for GroupNorm {
    const ARITY: (usize, usize) = (1, 3);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = float(args)?;
        let sound = x.shape.len() >= 2 && self.groups > 0 && x.shape[1].is_multiple_of(self.groups);
        ensure!(sound, Graph, "input {x}: its channels are no {} groups", self.groups);
        args.optional(1, DType::Float32, x.shape[1])?;
        args.optional(2, DType::Float32, x.shape[1])?;
        Ok(vec![x])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Same
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let planes = Planes::of(x, site.layout);
        let each = planes.channels / self.groups;
        let (scale, shift) = (
            site.args.optional(1, DType::Float32, planes.channels)?.cloned(),
            site.args.optional(2, DType::Float32, planes.channels)?.cloned(),
        );
        let (eps, groups) = (self.eps, self.groups);
        let (tier, kernel) = pick(norm::GROUP, site.tier);
        let mut step = Step::new(format!("group_norm/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (Shared(frame.input_ptr::<f32>(0).cast_mut()), Shared(frame.output_ptr::<f32>(0)));
            frame.pool.run(planes.n * groups, &|item, _| {
                let channels = item % groups * each..(item % groups + 1) * each;
                let norm = Norm {
                    eps,
                    center: true,
                    scale: scale.as_ref().map(|scale| &scale.of::<f32>()[channels.clone()]),
                    shift: shift.as_ref().map(|shift| &shift.of::<f32>()[channels.clone()]),
                };
                let group = Group { channels: each, plane: planes.plane, pitch: planes.pitch };
                let at = item * each * planes.pitch;
                // SAFETY: both hold the groups one after the other and are the same or apart; each is one item's.
                unsafe { kernel(&norm, group, x.get().add(at), out.get().add(at)) };
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}

/// `affine` has no attributes: every channel of `(n, channels, *)` times operand 1 plus operand 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {}

impl Operator for Affine {
    const ARITY: (usize, usize) = (3, 3);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = float(args)?;
        ensure!(x.shape.len() >= 2, Graph, "input {x} has no channels");
        args.plain(1, DType::Float32, x.shape[1])?;
        args.plain(2, DType::Float32, x.shape[1])?;
        Ok(vec![x])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Same
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let planes = Planes::of(site.args.meta(0)?, site.layout);
        let scale = Arc::clone(site.args.plain(1, DType::Float32, planes.channels)?);
        let shift = Arc::clone(site.args.plain(2, DType::Float32, planes.channels)?);
        let (tier, kernel) = pick(map::TABLE, site.tier);
        let group = grouped(planes.n * planes.channels, planes.pitch);
        let mut step = Step::new(format!("affine/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (Shared(frame.input_ptr::<f32>(0).cast_mut()), Shared(frame.output_ptr::<f32>(0)));
            let count = planes.n * planes.channels;
            frame.pool.run(count.div_ceil(group), &|item, _| {
                for plane in item * group..((item + 1) * group).min(count) {
                    let channel = plane % planes.channels;
                    let function =
                        Map::Affine { mul: scale.of::<f32>()[channel], add: shift.of::<f32>()[channel] };
                    let at = plane * planes.pitch;
                    // SAFETY: both hold the planes a pitch apart and are the same or apart; each is one item's.
                    unsafe { kernel(function, x.get().add(at), out.get().add(at), planes.plane) };
                }
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}
