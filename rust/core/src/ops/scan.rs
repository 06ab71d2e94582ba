//! `scan`: running sums or products along an axis, of float32 in double precision as in torch.

use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::tensor::{DType, Meta};
use bytemuck::Pod;
use serde::{Deserialize, Serialize};

/// What is made of an element and those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Running {
    /// Their sum.
    Sum,
    /// Their product.
    Prod,
}

/// Attributes of `scan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// What is made.
    #[serde(rename = "fn")]
    pub function: Running,
    /// The axis.
    pub axis: usize,
}

impl Operator for Scan {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.number(0)?;
        ensure!(self.axis < x.shape.len(), Graph, "{x} has no axis {}", self.axis);
        Ok(vec![x.clone()])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let (n, inner) = (x.shape[self.axis], x.shape[self.axis + 1..].iter().product());
        let (float, sum) = (x.dtype == DType::Float32, self.function == Running::Sum);
        Ok(Step::new("scan/scalar", move |frame: &Frame<'_>| match (float, sum) {
            (true, true) => {
                run(frame, n, inner, 0.0, |total: f64, x: f32| total + f64::from(x), |t| t as f32);
            }
            (true, false) => {
                run(frame, n, inner, 1.0, |total: f64, x: f32| total * f64::from(x), |t| t as f32);
            }
            (false, true) => run(frame, n, inner, 0, i64::wrapping_add, |total| total),
            (false, false) => run(frame, n, inner, 1, i64::wrapping_mul, |total| total),
        })
        .into())
    }
}

fn run<T: Pod, A: Copy>(
    frame: &Frame<'_>,
    n: usize,
    inner: usize,
    start: A,
    join: impl Fn(A, T) -> A,
    store: impl Fn(A) -> T,
) {
    let (x, out) = (frame.input::<T>(0), frame.output::<T>(0));
    let mut totals = vec![start; inner];
    for (x, out) in x.chunks(n.max(1) * inner.max(1)).zip(out.chunks_mut(n.max(1) * inner.max(1))) {
        totals.fill(start);
        for (x, out) in x.chunks(inner.max(1)).zip(out.chunks_mut(inner.max(1))) {
            for ((out, &x), total) in out.iter_mut().zip(x).zip(&mut totals) {
                *total = join(*total, x);
                *out = store(*total);
            }
        }
    }
}
