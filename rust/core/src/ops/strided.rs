//! Ops that only say which element comes from where: `permute`, `slice`, `expand`, `flip`.
//!
//! Each is a walk over its operand with a stride a dimension, which one loop copies.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Error, Result, ensure};
use crate::tensor::{Meta, Shape};
use serde::{Deserialize, Serialize};

/// Elements from one index to the next in a contiguous array, a dimension.
pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as isize;
    }
    strides
}

/// A walk over an array: its first element, and a stride for each dimension of the output.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) start: isize,
    pub(super) strides: Vec<isize>,
}

/// A step that copies what a walk meets, in the order of `shape`.
pub(super) fn copy_walk(name: &str, meta: &Meta, walk: &Walk) -> Step {
    let size = meta.dtype.size();
    // Dimensions of one element say nothing, and neighbours that are walked as one are one.
    let (mut shape, mut strides): (Vec<usize>, Vec<isize>) = (vec![], vec![]);
    for (&d, &stride) in meta.shape.iter().zip(&walk.strides) {
        match (shape.last_mut(), strides.last_mut()) {
            _ if d == 1 => {}
            (Some(outer), Some(last)) if *last == stride.wrapping_mul(d as isize) => {
                (*outer, *last) = (*outer * d, stride);
            }
            _ => {
                shape.push(d);
                strides.push(stride);
            }
        }
    }
    let (inner, stride) = (shape.pop().unwrap_or(1), strides.pop().unwrap_or(1));
    let rows: usize = shape.iter().product();
    let start = walk.start;
    Step::new(format!("{name}/scalar"), move |frame: &Frame<'_>| {
        let x = frame.input::<u8>(0);
        let out = Shared(frame.output_ptr::<u8>(0));
        if inner == 0 || rows == 0 {
            return;
        }
        let group = (64 * 1024 / (inner * size)).max(1);
        frame.pool.run(rows.div_ceil(group), &|item, _| {
            for row in item * group..((item + 1) * group).min(rows) {
                let (mut at, mut rest) = (start, row);
                for (&d, &stride) in shape.iter().zip(&strides).rev() {
                    at += (rest % d) as isize * stride;
                    rest /= d;
                }
                let (first, to) = (at, row * inner * size);
                // SAFETY: rows of the output follow each other; each is one item's.
                let out = unsafe { out.part(to, to + inner * size) };
                match size {
                    1 => walk_row::<u8>(x, first, stride, out),
                    2 => walk_row::<u16>(x, first, stride, out),
                    4 => walk_row::<u32>(x, first, stride, out),
                    _ => walk_row::<u64>(x, first, stride, out),
                }
            }
        });
    })
}

fn walk_row<T: bytemuck::Pod>(x: &[u8], first: isize, stride: isize, out: &mut [u8]) {
    let (x, out): (&[T], &mut [T]) = (bytemuck::cast_slice(x), bytemuck::cast_slice_mut(out));
    match stride {
        1 => out.copy_from_slice(&x[first as usize..][..out.len()]),
        0 => out.fill(x[first as usize]),
        _ => {
            let mut at = first;
            for value in out {
                *value = x[at as usize];
                at += stride;
            }
        }
    }
}

/// Attributes of `permute`: dimension `i` of the output is dimension `axes[i]` of the operand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permute {
    /// The order.
    pub axes: Vec<usize>,
}

impl Operator for Permute {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let mut seen = self.axes.clone();
        seen.sort_unstable();
        ensure!(
            seen.iter().copied().eq(0..x.shape.len()),
            Graph,
            "axes {:?} are no order of those of {x}",
            self.axes
        );
        Ok(vec![Meta::new(x.dtype, self.axes.iter().map(|&a| x.shape[a]).collect::<Shape>())])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        // Where only dimensions of one element move, the bytes stay.
        if self.axes.iter().filter(|&&a| x.shape[a] != 1).is_sorted() {
            return Ok(Prepared::Alias);
        }
        let of = strides(&x.shape);
        let walk = Walk { start: 0, strides: self.axes.iter().map(|&a| of[a]).collect() };
        Ok(copy_walk("permute", &site.outputs[0], &walk).into())
    }
}

/// Attributes of `slice`: `x[..., start:stop:step, ...]` along one axis, by Python's rules; a negative step walks backward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// First index; negative counts from the end. None is the first there is, in the direction of the step.
    pub start: Option<Size>,
    /// One past the last; negative counts from the end. None is past the last there is.
    pub stop: Option<Size>,
    /// From one index to the next.
    pub step: i64,
}

impl Slice {
    /// The first index and the number of indices along an axis of `n`.
    fn range(&self, n: usize, args: &Args<'_>) -> Result<(usize, usize)> {
        let (n, step) = (n as i64, self.step);
        ensure!(step != 0 && step != i64::MIN, Graph, "a slice has step {step}");
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let bound = |size: &Option<Size>, missing: i64| -> Result<i64> {
            let Some(size) = size else { return Ok(missing) };
            let value = size.eval(args.sizes)?;
            let value = if value < 0 { value.saturating_add(n) } else { value };
            Ok(value.clamp(low, high))
        };
        let (first, last) = if step > 0 { (low, high) } else { (high, low) };
        let (start, stop) = (bound(&self.start, first)?, bound(&self.stop, last)?);
        let span = if step > 0 { stop - start } else { start - stop };
        let count = if span > 0 { (span - 1) / step.abs() + 1 } else { 0 };
        Ok((start.max(0) as usize, count as usize))
    }
}

impl Operator for Slice {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let mut made = args.meta(0)?.clone();
        let n = made.shape.get(self.axis).copied();
        let n = n.ok_or_else(|| Error::Graph(format!("{made} has no axis {}", self.axis)))?;
        made.shape[self.axis] = self.range(n, args)?.1;
        Ok(vec![made])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let (start, count) = self.range(x.shape[self.axis], &site.args)?;
        if count == x.shape[self.axis] && (self.step > 0 || count < 2) {
            return Ok(Prepared::Alias);
        }
        let mut of = strides(&x.shape);
        let start = start as isize * of[self.axis];
        // Beyond the axis only where fewer than two indices are taken, and then not walked.
        of[self.axis] = of[self.axis].wrapping_mul(self.step as isize);
        Ok(copy_walk("slice", &site.outputs[0], &Walk { start, strides: of }).into())
    }
}

/// Attributes of `expand`: dimensions of one element are repeated, new ones are put in front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expand {
    /// The new shape; -1 keeps a dimension.
    pub shape: Vec<Size>,
}

impl Operator for Expand {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let new = self.shape.len().checked_sub(x.shape.len());
        let new = new.ok_or_else(|| Error::Shape(format!("{x} cannot lose dimensions")))?;
        let mut shape = Shape::new();
        for (i, size) in self.shape.iter().enumerate() {
            let (asked, had) = (size.eval(args.sizes)?, i.checked_sub(new).map(|j| x.shape[j]));
            let made = match had {
                Some(had) if asked == -1 || asked == had as i64 => Some(had),
                Some(1) | None => usize::try_from(asked).ok(),
                Some(_) => None,
            };
            shape
                .push(made.ok_or_else(|| Error::Shape(format!("{x}: dimension {i} cannot become {asked}")))?);
        }
        Ok(vec![Meta::new(x.dtype, shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        if x.elements() == out.elements() {
            return Ok(Prepared::Alias);
        }
        let new = out.shape.len() - x.shape.len();
        let of = strides(&x.shape);
        let along = |i: usize| i.checked_sub(new).map_or(0, |j| if x.shape[j] == 1 { 0 } else { of[j] });
        let walk = Walk { start: 0, strides: (0..out.shape.len()).map(along).collect() };
        Ok(copy_walk("expand", out, &walk).into())
    }
}
