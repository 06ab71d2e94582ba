//! `where`: one of two operands, element by element, all broadcast to each other.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, by_size, parallel};
use crate::error::{Result, ensure};
use crate::kernels::binary;
use crate::tensor::{DType, Meta, broadcast};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// `N` operands broadcast to a shape, walked in runs in which each advances by one or stays.
#[derive(Clone, Debug)]
pub(super) struct Runs<const N: usize> {
    /// Sizes of the dimensions and, for each operand, its stride in elements; outermost first, never empty.
    dims: Vec<(usize, [usize; N])>,
    len: usize,
}

impl<const N: usize> Runs<N> {
    /// Of contiguous operands of these shapes, which broadcast to `to`.
    pub(super) fn new(to: &[usize], shapes: [&[usize]; N]) -> Runs<N> {
        let strides = shapes.map(|shape| binary::strides(shape, to));
        let mut dims: Vec<(usize, [usize; N])> = vec![];
        for (i, &size) in to.iter().enumerate().filter(|(_, size)| **size != 1) {
            let strides: [usize; N] = std::array::from_fn(|side| strides[side][i]);
            match dims.last_mut() {
                Some((outer, last)) if (0..N).all(|side| last[side] == strides[side] * size) => {
                    (*outer, *last) = (*outer * size, strides);
                }
                _ => dims.push((size, strides)),
            }
        }
        if dims.is_empty() {
            dims.push((1, [0; N]));
        }
        Runs { dims, len: to.iter().product() }
    }

    /// Elements in all.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Calls `body(from, to, first, advance)` for every run of elements `from..to` within a range: where each operand's run
    /// starts, and whether it advances (1) or stays (0).
    pub(super) fn walk(
        &self,
        range: Range<usize>,
        mut body: impl FnMut(usize, usize, [usize; N], [usize; N]),
    ) {
        let Some((&(inner, advance), outer)) = self.dims.split_last() else { return };
        let mut at = range.start;
        while at < range.end {
            let (mut rest, column) = (at / inner, at % inner);
            let mut first: [usize; N] = std::array::from_fn(|side| column * advance[side]);
            for &(size, strides) in outer.iter().rev() {
                for side in 0..N {
                    first[side] += rest % size * strides[side];
                }
                rest /= size;
            }
            let to = range.end.min(at + inner - column);
            body(at, to, first, advance);
            at = to;
        }
    }
}

/// `where` has no attributes: operand 1 where operand 0 holds, operand 2 elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Where {}

impl Operator for Where {
    const ARITY: (usize, usize) = (3, 3);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (condition, a, b) = (args.meta(0)?, args.meta(1)?, args.meta(2)?);
        ensure!(condition.dtype == DType::Bool, Graph, "condition {condition}: expected bool");
        ensure!(a.dtype == b.dtype, Graph, "operands are {a} and {b}: expected one type");
        let shape = broadcast(&broadcast(&condition.shape, &a.shape)?, &b.shape)?;
        Ok(vec![Meta::new(a.dtype, shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let shape = |i: usize| site.args.meta(i).map(|meta| meta.shape.as_slice());
        let out = &site.outputs[0];
        let runs = Runs::new(&out.shape, [shape(0)?, shape(1)?, shape(2)?]);
        let size = out.dtype.size();
        Ok(Step::new("where/scalar", move |frame: &Frame<'_>| by_size!(size, choose(frame, &runs))).into())
    }
}

fn choose<T: bytemuck::Pod + Sync>(frame: &Frame<'_>, runs: &Runs<3>) {
    let (condition, a, b) = (frame.input::<u8>(0), frame.input::<T>(1), frame.input::<T>(2));
    let out = Shared(frame.output_ptr::<T>(0));
    parallel(frame.pool, runs.len(), 64, &|start, end| {
        runs.walk(start..end, |from, to, first, advance| {
            // SAFETY: the output has that many elements; each range is one thread's.
            let out = unsafe { out.part(from, to) };
            for (i, out) in out.iter_mut().enumerate() {
                let at = |side: usize| first[side] + i * advance[side];
                *out = if condition[at(0)] != 0 { a[at(1)] } else { b[at(2)] };
            }
        });
    });
}
