//! `arg_extreme`: where the greatest or least element of an axis is.

use super::reduce::reduced;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::kernels::reduce::{self, Dims};
use crate::tensor::{DType, Meta};
use serde::{Deserialize, Serialize};

/// Attributes of `arg_extreme`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgExtreme {
    /// The axis.
    pub axis: usize,
    /// Whether the greatest is meant, or the least. Of equals it is the first; a NaN is both.
    pub greatest: bool,
    /// Whether the axis stays as a dimension of one element.
    pub keepdim: bool,
}

impl Operator for ArgExtreme {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.number(0)?;
        let shape = reduced(x, &[self.axis], self.keepdim)?;
        let empty = x.shape[self.axis] == 0 && shape.iter().all(|&d| d > 0);
        ensure!(!empty, Shape, "input {x}: axis {} is empty", self.axis);
        Ok(vec![Meta::new(DType::Int64, shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let (greatest, axis) = (self.greatest, self.axis);
        let dims =
            Dims::new(x.shape[..axis].iter().product(), x.shape[axis], x.shape[axis + 1..].iter().product());
        let float = x.dtype == DType::Float32;
        Ok(Step::new("arg_extreme/scalar", move |frame: &Frame<'_>| {
            let out = frame.output::<i64>(0);
            if float {
                reduce::arg_extreme(greatest, dims, frame.input(0), out);
            } else {
                integers(greatest, dims, frame.input(0), out);
            }
        })
        .into())
    }
}

fn integers(greatest: bool, dims: Dims, x: &[i64], out: &mut [i64]) {
    for (i, out) in out.iter_mut().enumerate() {
        let first = i / dims.inner * dims.axis * dims.inner + i % dims.inner;
        let at = |a: usize| x[first + a * dims.inner];
        let mut best = 0;
        for a in 1..dims.axis {
            if if greatest { at(a) > at(best) } else { at(a) < at(best) } {
                best = a;
            }
        }
        *out = best as i64;
    }
}
