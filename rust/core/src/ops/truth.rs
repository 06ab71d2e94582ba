//! `truth`: whether any element of some axes, or every one, is not zero.

use super::reduce::{Plane, reduced};
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::kernels::{pick, reduce, relayout};
use crate::tensor::{DType, Meta};
use serde::{Deserialize, Serialize};

/// Attributes of `truth`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// Whether every element is asked for, or any.
    pub all: bool,
    /// The axes, without repetition.
    pub axes: Vec<usize>,
    /// Whether they stay as dimensions of one element.
    pub keepdim: bool,
}

impl Operator for Truth {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        ensure!(x.dtype == DType::Bool, Graph, "input {x}: expected bool");
        Ok(vec![Meta::new(DType::Bool, reduced(x, &self.axes, self.keepdim)?)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let plane = Plane::of(&site.args.meta(0)?.shape, &self.axes);
        let (_, transpose) = pick(relayout::TABLE, site.tier);
        let all = self.all;
        Ok(Step::new("truth/scalar", move |frame: &Frame<'_>| {
            let out = frame.output::<u8>(0);
            plane.see(transpose, frame.input::<u8>(0), |dims, x| reduce::truth(all, dims, x, out));
        })
        .into())
    }
}
