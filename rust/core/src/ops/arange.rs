//! `arange`: `start, start + step, …`, as many as the sizes of the inputs say.

use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::Result;
use crate::tensor::{DType, Meta};
use serde::{Deserialize, Serialize};

/// Attributes of `arange`, whose numbers are int64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arange {
    /// The first.
    pub start: Size,
    /// From one to the next.
    pub step: i64,
    /// How many.
    pub count: Size,
}

impl Operator for Arange {
    const ARITY: (usize, usize) = (0, 0);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        self.start.eval(args.sizes)?;
        Ok(vec![Meta::new(DType::Int64, [self.count.dim(args.sizes)?])])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (start, step) = (self.start.eval(site.args.sizes)?, self.step);
        Ok(Step::new("arange/scalar", move |frame: &Frame<'_>| {
            let mut next = start;
            for out in frame.output::<i64>(0) {
                *out = next;
                next = next.wrapping_add(step);
            }
        })
        .into())
    }
}
