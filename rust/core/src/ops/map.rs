//! `map`: a function of one variable, element by element.

#![allow(unsafe_code, reason = "the operand may be the output")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants, parallel};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::kernels::map::{self, Map};
use crate::kernels::pick;
use crate::tensor::{DType, Meta};
use serde::{Deserialize, Serialize};

/// Attributes of `map`: the function and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapOp(pub Map);

impl Operator for MapOp {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let integer = x.dtype == DType::Int64 && self.0.integer(0).is_some();
        ensure!(
            x.dtype == DType::Float32 || integer,
            Graph,
            "input {x}: {:?} is computed in float32",
            self.0
        );
        Ok(vec![x.clone()])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Same
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let function = self.0;
        if site.args.meta(0)?.dtype == DType::Int64 {
            return Ok(Step::new("map/scalar", move |frame: &Frame<'_>| {
                let (x, out) = (frame.input::<i64>(0), frame.output::<i64>(0));
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = function
                        .integer(x)
                        .expect("inference asked whether the function has an integer form");
                }
            })
            .into());
        }
        let (tier, kernel) = pick(map::TABLE, site.tier);
        let mut step = Step::new(format!("map/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (Shared(frame.input_ptr::<f32>(0).cast_mut()), Shared(frame.output_ptr::<f32>(0)));
            let n = frame.outputs[0].len / size_of::<f32>();
            parallel(frame.pool, n, 16, &|start, end| {
                // SAFETY: both hold `n` elements and are the same or apart; threads have ranges of their own.
                unsafe { kernel(function, x.get().add(start), out.get().add(start), end - start) };
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}
