//! `cat`: arrays one after the other along an axis.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::tensor::{Layout, Meta, Planes};
use serde::{Deserialize, Serialize};

/// Attributes of `cat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cat {
    /// The axis.
    pub axis: usize,
}

impl Operator for Cat {
    const ARITY: (usize, usize) = (1, 1 << 16);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let mut made = args.meta(0)?.clone();
        ensure!(self.axis < made.shape.len(), Graph, "{made} has no axis {}", self.axis);
        for i in 1..args.len() {
            let part = args.meta(i)?;
            let fits = part.dtype == made.dtype
                && part.shape.len() == made.shape.len()
                && part.shape.iter().zip(&made.shape).enumerate().all(|(d, (a, b))| d == self.axis || a == b);
            ensure!(fits, Shape, "{part} does not go after {made} along axis {}", self.axis);
            made.shape[self.axis] = made.shape[self.axis].saturating_add(part.shape[self.axis]);
        }
        Ok(vec![made])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        // Channels of features follow each other as they are; tensors of the file lie plain.
        let values = args.args.iter().all(|arg| matches!(arg, super::Arg::Value(_)));
        let rank = args.meta(0).map_or(0, |meta| meta.shape.len());
        if self.axis == 1 && rank >= 3 && values { Wants::Same } else { Wants::Plain }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let out = &site.outputs[0];
        let size = out.dtype.size();
        // Every operand is `outer` runs of bytes, which interleave in the output.
        let run = |meta: &Meta| {
            let inner = if site.layout == Layout::Features {
                meta.shape[1] * Planes::of(meta, Layout::Features).pitch
            } else {
                meta.shape[self.axis..].iter().product()
            };
            inner * size
        };
        let outer: usize = out.shape[..self.axis].iter().product();
        let whole = run(out);
        let mut runs = vec![];
        let mut at = 0;
        for i in 0..site.args.len() {
            let len = run(site.args.meta(i)?);
            runs.push((at, len));
            at += len;
        }
        Ok(Step::new("cat/scalar", move |frame: &Frame<'_>| {
            let out = Shared(frame.output_ptr::<u8>(0));
            frame.pool.run(runs.len(), &|i, _| {
                let (at, len) = runs[i];
                let x = frame.input::<u8>(i);
                for o in 0..outer {
                    // SAFETY: runs of the operands lie apart in the output; each operand is one item's.
                    let out = unsafe { out.part(o * whole + at, o * whole + at + len) };
                    out.copy_from_slice(&x[o * len..][..len]);
                }
            });
        })
        .into())
    }
}
