//! `reduce`: sum, mean, extremes, product, variance, norms, over any axes.

use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::kernels::reduce::{self, Dims, Reduce};
use crate::kernels::{pick, relayout};
use crate::pool::Pool;
use crate::tensor::{DType, Layout, Meta, Planes};
use serde::{Deserialize, Serialize};

/// Attributes of `reduce`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceOp {
    /// What is made of the elements.
    #[serde(flatten)]
    pub function: Reduce,
    /// The axes, without repetition.
    pub axes: Vec<usize>,
    /// Whether they stay as dimensions of one element.
    pub keepdim: bool,
}

/// The shape that is left where `axes` are reduced.
pub(super) fn reduced(x: &Meta, axes: &[usize], keepdim: bool) -> Result<Vec<usize>> {
    let mut seen = vec![false; x.shape.len()];
    for &axis in axes {
        let once = seen.get_mut(axis).is_some_and(|seen| !std::mem::replace(seen, true));
        ensure!(once, Graph, "axes {axes:?} are not axes of {x}, each once");
    }
    let left = x.shape.iter().zip(&seen).filter(|(_, seen)| keepdim || !**seen);
    Ok(left.map(|(&d, &seen)| if seen { 1 } else { d }).collect())
}

/// A reduction seen as one axis; where other axes lie between the reduced ones, the array is permuted first.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    dims: Dims,
    permuted: Option<(Vec<usize>, Vec<usize>)>,
}

impl Plane {
    pub(super) fn of(shape: &[usize], axes: &[usize]) -> Plane {
        if let Some(dims) = Dims::collapse(shape, axes) {
            return Plane { dims, permuted: None };
        }
        let kept: Vec<usize> = (0..shape.len()).filter(|i| !axes.contains(i)).collect();
        let mut order = kept.clone();
        order.extend((0..shape.len()).filter(|i| axes.contains(i)));
        let outer = kept.iter().map(|&i| shape[i]).product();
        let axis = axes.iter().map(|&i| shape[i]).product();
        Plane { dims: Dims::rows(outer, axis), permuted: Some((shape.to_vec(), order)) }
    }

    /// Calls `body` with the array so seen.
    pub(super) fn see<T: bytemuck::Pod>(
        &self,
        transpose: relayout::TransposeFn,
        x: &[T],
        body: impl FnOnce(Dims, &[T]),
    ) {
        match &self.permuted {
            None => body(self.dims, x),
            Some((shape, order)) => {
                let mut turned = vec![T::zeroed(); x.len()];
                relayout::permute(transpose, shape, order, x, &mut turned);
                body(self.dims, &turned);
            }
        }
    }
}

impl Operator for ReduceOp {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let integer = x.dtype == DType::Int64
            && matches!(self.function, Reduce::Sum | Reduce::Prod | Reduce::Max | Reduce::Min);
        ensure!(
            x.dtype == DType::Float32 || integer,
            Graph,
            "input {x}: {:?} is computed in float32",
            self.function
        );
        let shape = reduced(x, &self.axes, self.keepdim)?;
        Ok(vec![Meta::new(x.dtype, shape)])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        // Whole planes of features are reduced where they lie.
        let rank = args.meta(0).map_or(0, |x| if x.dtype == DType::Float32 { x.shape.len() } else { 0 });
        let mut axes = self.axes.clone();
        axes.sort_unstable();
        if rank >= 3 && axes.iter().copied().eq(2..rank) { Wants::FromFeatures } else { Wants::Plain }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let function = self.function;
        let (_, transpose) = pick(relayout::TABLE, site.tier);
        if x.dtype == DType::Int64 {
            let plane = Plane::of(&x.shape, &self.axes);
            return Ok(Step::new("reduce/scalar", move |frame: &Frame<'_>| {
                let out = frame.output::<i64>(0);
                plane.see(transpose, frame.input::<i64>(0), |dims, x| {
                    reduce::reduce_i64(function, dims, x, out);
                });
            })
            .into());
        }
        let (tier, kernel) = pick(reduce::TABLE, site.tier);
        let name = format!("reduce/{tier}");
        if site.layouts[0] == Layout::Features {
            let planes = Planes::of(x, Layout::Features);
            return Ok(Step::new(name, move |frame: &Frame<'_>| {
                let (x, out) = (frame.input::<f32>(0), frame.output::<f32>(0));
                in_parts(frame.pool, out, planes.plane, &|first, out| {
                    let dims = Dims::planes(out.len(), planes.plane, planes.pitch);
                    kernel(function, dims, &x[first * planes.pitch..][..dims.len()], out);
                });
            })
            .into());
        }
        let plane = Plane::of(&x.shape, &self.axes);
        Ok(Step::new(name, move |frame: &Frame<'_>| {
            let out = frame.output::<f32>(0);
            plane.see(transpose, frame.input::<f32>(0), |dims, x| {
                if dims.inner == 1 {
                    in_parts(frame.pool, out, dims.axis, &|first, out| {
                        let rows = Dims::rows(out.len(), dims.axis);
                        kernel(function, rows, &x[first * dims.axis..][..rows.len()], out);
                    });
                } else {
                    kernel(function, dims, x, out);
                }
            });
        })
        .into())
    }
}

/// Spreads the elements of `out`, each of which reads `each` elements, over the pool: `body(first, part)`.
fn in_parts(pool: &Pool, out: &mut [f32], each: usize, body: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let group = (16 * 1024 / each.max(1)).max(1);
    let parts: Vec<std::sync::Mutex<&mut [f32]>> = out.chunks_mut(group).map(std::sync::Mutex::new).collect();
    pool.run(parts.len(), &|item, _| {
        let mut part = parts[item].lock().expect("a part is one item's, so nobody left it poisoned");
        body(item * group, &mut part);
    });
}
