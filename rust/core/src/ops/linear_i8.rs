//! `linear_i8`: `linear` in integers, as `kernels/strip_i8` defines them.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::integer::{self, Quantized};
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::kernels::strip_i8::Output;
use crate::kernels::strip_i8::rows::{MAX_ROWS, RowsI8};
use crate::kernels::{gemv_i8, pick};
use crate::pool::split;
use crate::tensor::Meta;
use crate::weight::{Matrix, Structure, TILE};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Attributes of `linear_i8`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LinearI8(pub Quantized);

impl Operator for LinearI8 {
    const ARITY: (usize, usize) = (4, 5);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, weight) = (args.meta(0)?, integer::matrix(args)?);
        ensure!(
            x.shape.last() == Some(&weight.k()) && weight.k() > 0 && weight.groups() == 1,
            Graph,
            "weight is {} x {} in {} groups, input {x} has other features",
            weight.m(),
            weight.k(),
            weight.groups()
        );
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("it has a last dimension, as just checked") = weight.m();
        Ok(vec![self.0.infer(args, weight.m(), weight.k(), shape)?])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, stored) = (site.args.meta(0)?, integer::matrix(&site.args)?);
        let (m, k) = (stored.m(), stored.k());
        let epilogue = self.0.epilogue(site, &integer::row_sums(stored))?;
        let matrix = match stored.structure() {
            Structure::Dense(_) => Arc::clone(stored),
            _ => stored.form("dense", |stored| {
                let dense = Matrix::dense((m, k, 1), &stored.to_rows::<i8>(), None)?;
                let bytes = dense.bytes();
                Ok((dense, bytes))
            })?,
        };
        let (tier, kernel) = pick(gemv_i8::TABLE, site.tier);
        let vectors = x.elements() / k;
        let batches = split(vectors, vectors.div_ceil(MAX_ROWS), 1);
        let parts = split(m, (4 * site.threads).div_ceil(batches.len().max(1)).min(m.div_ceil(4 * TILE)), TILE);
        let size = if epilogue.output_is_bytes() { 1 } else { 4 };
        let (flops, bytes) = (2.0 * (m * k * vectors) as f64, matrix.bytes());
        let mut step = Step::new(format!("gemv_i8/{tier}"), move |frame: &Frame<'_>| {
            let x = frame.input::<u8>(0);
            let out = Shared(frame.output_ptr::<u8>(0));
            let residual = epilogue.residual.map(|_| frame.input::<u8>(4));
            frame.pool.run(batches.len() * parts.len(), &|item, _| {
                let ((first, last), rows) = (batches[item / parts.len()], parts[item % parts.len()]);
                let call = RowsI8 {
                    weight: matrix.tiles_i8(0),
                    rows,
                    x: x[first * k..].as_ptr(),
                    x_stride: k,
                    n: last - first,
                    out: out.get().wrapping_add(first * m * size),
                    out_stride: m,
                    residual: residual.map_or(std::ptr::null(), |residual| residual[first * m..].as_ptr()),
                    residual_stride: m,
                    requant: epilogue.rows(0, m),
                };
                // SAFETY: `pick` found the tier's token; `x` has the batch's rows, output and residual theirs; no other item
                // has these rows of this batch.
                unsafe { kernel(&call) };
            });
        });
        step.flops = flops;
        step.weight_bytes = bytes;
        Ok(step.into())
    }
}

impl integer::Epilogue {
    fn output_is_bytes(&self) -> bool {
        matches!(self.output, Output::U8 { .. })
    }
}
