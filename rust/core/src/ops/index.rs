//! Ops that go by an array of indices: `take`, `gather`, `scatter`.
//!
//! Indices come from the caller, or are computed: each is read once and checked, and one that is out of range ends the run
//! with an error.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, by_size, parallel};
use crate::error::{Error, Result, ensure};
use crate::tensor::{DType, Meta};
use bytemuck::Pod;
use serde::{Deserialize, Serialize};

/// The place that an index names among `n`, or an error for the frame.
pub(super) fn place(frame: &Frame<'_>, index: i64, n: usize, from_end: bool) -> Option<usize> {
    let at = if from_end && index < 0 { index.checked_add_unsigned(n as u64) } else { Some(index) };
    let at = at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < n);
    if at.is_none() {
        let first = if from_end { -(n as i64) } else { 0 };
        frame.fail(Error::Shape(format!("index {index} is out of range: expected {first} <= index < {n}")));
    }
    at
}

/// Checks that operand `i` is indices.
pub(super) fn indices<'a>(args: &Args<'a>, i: usize) -> Result<&'a Meta> {
    let index = args.meta(i)?;
    ensure!(index.dtype == DType::Int64, Graph, "indices are {index}, expected int64");
    Ok(index)
}

/// Attributes of `take`: the slices of operand 0 along an axis that the indices of operand 1 name; their shape takes the
/// place of the axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Take {
    /// The axis.
    pub axis: usize,
    /// Whether negative indices count from the end.
    #[serde(default)]
    pub from_end: bool,
}

impl Operator for Take {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, index) = (args.meta(0)?, indices(args, 1)?);
        ensure!(self.axis < x.shape.len(), Graph, "{x} has no axis {}", self.axis);
        let shape = [&x.shape[..self.axis], &index.shape, &x.shape[self.axis + 1..]].concat();
        Ok(vec![Meta::new(x.dtype, shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, from_end) = (site.args.meta(0)?, self.from_end);
        let inner = x.shape[self.axis + 1..].iter().product::<usize>() * x.dtype.size();
        let n = x.shape[self.axis];
        Ok(Step::new("take/scalar", move |frame: &Frame<'_>| {
            let (x, index) = (frame.input::<u8>(0), frame.input::<i64>(1));
            let out = Shared(frame.output_ptr::<u8>(0));
            let rows = frame.outputs[0].len.checked_div(inner).unwrap_or(0);
            let group = (64 * 1024 / inner.max(1)).max(1);
            frame.pool.run(rows.div_ceil(group), &|item, _| {
                for row in item * group..((item + 1) * group).min(rows) {
                    let Some(at) = place(frame, index[row % index.len()], n, from_end) else { return };
                    // SAFETY: the output has that many rows; each is one item's.
                    let out = unsafe { out.part(row * inner, (row + 1) * inner) };
                    out.copy_from_slice(&x[(row / index.len() * n + at) * inner..][..inner]);
                }
            });
        })
        .into())
    }
}

/// How the elements of an array of indices lie over another array: a walk along rows of the last dimension.
#[derive(Clone, Debug)]
struct Rows {
    /// The indices' shape but for its last dimension, and the other array's strides.
    outer: Vec<(usize, usize)>,
    /// Their last dimension.
    width: usize,
    /// The axis they index: its size, its stride, and whether it is the last dimension.
    axis: (usize, usize, bool),
}

impl Rows {
    /// Over an array of shape `over`.
    fn new(index: &[usize], over: &[usize], axis: usize) -> Rows {
        let mut stride = vec![1; over.len()];
        for i in (1..over.len()).rev() {
            stride[i - 1] = stride[i] * over[i];
        }
        let last = over.len() - 1;
        // The indexed axis advances by what its index says.
        let along = |i: usize| if i == axis { 0 } else { stride[i] };
        Rows {
            outer: (0..last).map(|i| (index[i], along(i))).collect(),
            width: index[last],
            axis: (over[axis], stride[axis], axis == last),
        }
    }

    fn len(&self) -> usize {
        self.outer.iter().map(|(size, _)| size).product()
    }

    /// Where row `row` starts in the array.
    fn start(&self, mut row: usize) -> usize {
        let mut at = 0;
        for &(size, stride) in self.outer.iter().rev() {
            at += row % size * stride;
            row /= size;
        }
        at
    }

    /// Where element `j` of a row that starts at `start` is, for its index.
    fn at(&self, start: usize, j: usize, index: usize) -> usize {
        start + index * self.axis.1 + if self.axis.2 { 0 } else { j }
    }
}

/// Checks that indices lie over `x` in every dimension but the axis.
fn lies_over(index: &Meta, x: &Meta, axis: usize) -> Result<()> {
    let within = index.shape.len() == x.shape.len()
        && axis < x.shape.len()
        && index.shape.iter().zip(&x.shape).enumerate().all(|(d, (a, b))| d == axis || a <= b);
    ensure!(within, Shape, "indices {index} do not lie within {x} beside axis {axis}");
    Ok(())
}

/// Attributes of `gather`: `out[i][j] = x[index[i][j]][j]` for axis 0, of the indices' shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gather {
    /// The axis that is indexed.
    pub axis: usize,
}

impl Operator for Gather {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, index) = (args.meta(0)?, indices(args, 1)?);
        lies_over(index, x, self.axis)?;
        Ok(vec![Meta::new(x.dtype, index.shape.clone())])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, index) = (site.args.meta(0)?, site.args.meta(1)?);
        let (rows, size) = (Rows::new(&index.shape, &x.shape, self.axis), x.dtype.size());
        Ok(Step::new("gather/scalar", move |frame: &Frame<'_>| by_size!(size, gather(frame, &rows))).into())
    }
}

fn gather<T: Pod + Sync>(frame: &Frame<'_>, rows: &Rows) {
    let (x, index) = (frame.input::<T>(0), frame.input::<i64>(1));
    let out = Shared(frame.output_ptr::<T>(0));
    let width = rows.width;
    if width == 0 {
        return;
    }
    parallel(frame.pool, rows.len() * width, width, &|start, end| {
        // SAFETY: the output has as many elements as there are indices; each range is one thread's.
        let out = unsafe { out.part(start, end) };
        for (out, i) in out.iter_mut().zip(start..end) {
            let Some(at) = place(frame, index[i], rows.axis.0, false) else { return };
            *out = x[rows.at(rows.start(i / width), i % width, at)];
        }
    });
}

/// What becomes of an element that is put where one already is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    /// It replaces it; of several, the last.
    Put,
    /// It is added, in order.
    Add,
    /// It is multiplied with it, in order.
    Mul,
    /// The greater of the two stays; a NaN does.
    Max,
    /// The lesser of the two stays; a NaN does.
    Min,
}

impl Join {
    fn floats(self) -> fn(f32, f32) -> f32 {
        match self {
            Join::Put => |_, new| new,
            Join::Add => |old, new| old + new,
            Join::Mul => |old, new| old * new,
            Join::Max => |old, new| if old > new || old.is_nan() { old } else { new },
            Join::Min => |old, new| if old < new || old.is_nan() { old } else { new },
        }
    }

    fn integers(self) -> fn(i64, i64) -> i64 {
        match self {
            Join::Put => |_, new| new,
            Join::Add => i64::wrapping_add,
            Join::Mul => i64::wrapping_mul,
            Join::Max => i64::max,
            Join::Min => i64::min,
        }
    }
}

/// Attributes of `scatter`: `x` with `x[index[i][j]][j] = source[i][j]` for axis 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scatter {
    /// The axis that is indexed.
    pub axis: usize,
    /// How.
    pub join: Join,
}

impl Operator for Scatter {
    const ARITY: (usize, usize) = (3, 3);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, index, source) = (args.meta(0)?, indices(args, 1)?, args.meta(2)?);
        ensure!(source.dtype == x.dtype, Graph, "operands are {x} and {source}: expected one type");
        lies_over(index, x, self.axis)?;
        // Along the axis, too, every index has its source.
        let own = index.shape.iter().zip(&source.shape).all(|(a, b)| a <= b);
        ensure!(own && source.shape.len() == index.shape.len(), Shape, "{source} is smaller than {index}");
        let joins = matches!(x.dtype, DType::Float32 | DType::Int64);
        ensure!(self.join == Join::Put || joins, Graph, "{x}: only float32 and int64 are joined");
        Ok(vec![x.clone()])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, index, source) = (site.args.meta(0)?, site.args.meta(1)?, site.args.meta(2)?);
        let rows = Rows::new(&index.shape, &x.shape, self.axis);
        // The source is walked along the axis as along any other dimension.
        let mut from = Rows::new(&index.shape, &source.shape, self.axis);
        if let Some(outer) = from.outer.get_mut(self.axis) {
            outer.1 = from.axis.1;
        }
        let size = x.dtype.size();
        let body: super::Body = match (self.join, x.dtype) {
            (Join::Put, _) => Box::new(move |frame| by_size!(size, put(frame, &rows, &from))),
            (join, DType::Int64) => Box::new(move |frame| scatter(frame, &rows, &from, join.integers())),
            (join, _) => Box::new(move |frame| scatter(frame, &rows, &from, join.floats())),
        };
        Ok(Step::new("scatter/scalar", body).into())
    }
}

fn put<T: Pod>(frame: &Frame<'_>, rows: &Rows, from: &Rows) {
    scatter(frame, rows, from, |_: T, new| new);
}

fn scatter<T: Pod>(frame: &Frame<'_>, rows: &Rows, from: &Rows, join: impl Fn(T, T) -> T) {
    let (x, index, source) = (frame.input::<T>(0), frame.input::<i64>(1), frame.input::<T>(2));
    let out = frame.output::<T>(0);
    out.copy_from_slice(x);
    if rows.width == 0 {
        return;
    }
    for (row, index) in index.chunks_exact(rows.width).enumerate() {
        let (to, from) = (rows.start(row), from.start(row));
        for (j, &index) in index.iter().enumerate() {
            let Some(at) = place(frame, index, rows.axis.0, false) else { return };
            let out = &mut out[rows.at(to, j, at)];
            *out = join(*out, source[from + j]);
        }
    }
}
