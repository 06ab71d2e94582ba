//! `reshape`: the same elements under another shape.

use super::{Args, Operator, Prepared, Site, size::Size};
use crate::error::{Error, Result, ensure};
use crate::tensor::{Meta, elements};
use serde::{Deserialize, Serialize};

/// Attributes of `reshape`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reshape {
    /// The new shape; one dimension may be -1 and is then what is left.
    pub shape: Vec<Size>,
}

impl Operator for Reshape {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let sizes = self.shape.iter().map(|size| size.eval(args.sizes)).collect::<Result<Vec<_>>>()?;
        let known: Vec<usize> = sizes.iter().filter_map(|&d| usize::try_from(d).ok()).collect();
        let left = if sizes.len() - known.len() == 1 && sizes.contains(&-1) {
            let known = elements(&known)?;
            ensure!(
                known > 0 && x.elements().is_multiple_of(known),
                Shape,
                "{x} cannot become {sizes:?}: elements are left over"
            );
            x.elements() / known
        } else {
            ensure!(known.len() == sizes.len(), Shape, "shape {sizes:?}: at most one dimension may be -1");
            0
        };
        let shape: Vec<usize> = sizes.iter().map(|&d| usize::try_from(d).unwrap_or(left)).collect();
        if elements(&shape)? != x.elements() {
            return Err(Error::Shape(format!("{x} has {} elements, {shape:?} has others", x.elements())));
        }
        Ok(vec![Meta::new(x.dtype, shape)])
    }

    fn prepare(&self, _site: &Site<'_>) -> Result<Prepared> {
        Ok(Prepared::Alias)
    }
}
