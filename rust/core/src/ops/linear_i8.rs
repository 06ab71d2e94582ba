//! `linear_i8`: `linear` in integers, as `kernels/strip_i8` defines them.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::integer::{self, Quantized};
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::kernels::spmv_i8::{self, GROUP, Packed, RunPacked, fours};
use crate::kernels::strip_i8::rows::{MAX_ROWS, RowsI8};
use crate::kernels::strip_i8::{NR, Output};
use crate::kernels::{gemv_i8, pick};
use crate::pool::split;
use crate::tensor::Meta;
use crate::weight::{Matrix, QUAD, SparseRows, Structure, TILE, Unit};
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
        let form = Form::of(stored, site)?;
        let vectors = x.elements() / k;
        let batches = split(vectors, vectors.div_ceil(form.at_once(k)), 1);
        let parts = split(
            m,
            (4 * site.threads).div_ceil(batches.len().max(1)).min(m.div_ceil(4 * TILE)),
            form.grain(),
        );
        let size = if epilogue.output_is_bytes() { 1 } else { 4 };
        let stored_values =
            if matches!(stored.structure(), Structure::Sparse(_)) { stored.nnz() } else { m * k };
        let (name, bytes) = (form.name(), form.bytes());
        let mut step = Step::new(name, move |frame: &Frame<'_>| {
            let x = frame.input::<u8>(0);
            let out = Shared(frame.output_ptr::<u8>(0));
            let residual = epilogue.residual.map(|_| frame.input::<u8>(4));
            frame.pool.run(batches.len() * parts.len(), &|item, _| {
                let ((first, last), rows) = (batches.at(item / parts.len()), parts.at(item % parts.len()));
                let call = RowsI8 {
                    weight: (),
                    rows,
                    x: x[first * k..].as_ptr(),
                    x_stride: k,
                    n: last - first,
                    out: out.get().wrapping_add(first * m * size),
                    out_stride: m,
                    residual: residual.map_or(std::ptr::null(), |residual| residual[first * m..].as_ptr()),
                    residual_stride: m,
                    requant: epilogue.rows(0, m),
                    each: None,
                };
                // SAFETY: `pick` found the tier's token; `x` has the batch's rows, output and residual theirs; no other item
                // has these rows of this batch.
                unsafe { form.run(&call) };
            });
        });
        step.flops = 2.0 * stored_values as f64 * vectors as f64;
        step.weight_bytes = bytes;
        Ok(step.into())
    }
}

/// A weight with its kernel.
pub(super) enum Form {
    Dense(Tier, gemv_i8::Kernel, Arc<Matrix>),
    Rows(Tier, unsafe fn(&RowsI8<'_, SparseRows<'_, i8>>), Arc<Matrix>),
    Packed(Tier, RunPacked, Arc<Packed>),
    Fours(Tier, unsafe fn(&RowsI8<'_, SparseRows<'_, [i8; QUAD]>>), Arc<Matrix>),
    PackedFours(Tier, fours::RunPacked, Arc<fours::Packed<[i8; QUAD]>>),
}

impl Form {
    pub(super) fn of(matrix: &Arc<Matrix>, site: &Site<'_>) -> Result<Form> {
        if let Structure::Dense(_) = matrix.structure() {
            let (tier, kernel) = pick(gemv_i8::TABLE, site.tier);
            return Ok(Form::Dense(tier, kernel, Arc::clone(matrix)));
        }
        if matrix.unit() == Unit::FOUR {
            return Ok(match pick(fours::TABLE, site.tier) {
                (tier, fours::Kernel::Rows(run)) => Form::Fours(tier, run, Arc::clone(matrix)),
                (tier, fours::Kernel::Packed(run)) => {
                    let packed = matrix.form("spmv_i8", |matrix| {
                        let packed = fours::pack(&matrix.fours());
                        let bytes = packed.bytes();
                        Ok((packed, bytes))
                    })?;
                    Form::PackedFours(tier, run, packed)
                }
            });
        }
        Ok(match pick(spmv_i8::TABLE, site.tier) {
            (tier, spmv_i8::Kernel::Rows(kernel)) => Form::Rows(tier, kernel, Arc::clone(matrix)),
            (tier, spmv_i8::Kernel::Packed { pack, run }) => {
                let packed = matrix.form("spmv_i8", |matrix| {
                    let packed = pack(&matrix.rows());
                    let bytes = packed.bytes();
                    Ok((packed, bytes))
                })?;
                Form::Packed(tier, run, packed)
            }
        })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Form::Dense(tier, ..) => format!("gemv_i8/{tier}"),
            Form::Rows(tier, ..) | Form::Packed(tier, ..) => format!("spmv_i8/{tier}"),
            Form::Fours(tier, ..) | Form::PackedFours(tier, ..) => format!("spmv_i8 1x4/{tier}"),
        }
    }

    /// Rows of which a call computes whole numbers.
    pub(super) fn grain(&self) -> usize {
        match self {
            Form::Packed(..) | Form::PackedFours(..) => GROUP * TILE,
            // What a matrix unit's tiles hold the sums of.
            Form::Dense(Tier::Amx, ..) => NR,
            _ => TILE,
        }
    }

    /// Vectors of a batch: a matrix unit reads the weight once for all that stay in a second-level cache meanwhile.
    fn at_once(&self, k: usize) -> usize {
        if let Form::Dense(Tier::Amx, ..) = self { (512 * 1024 / k).max(4 * TILE) } else { MAX_ROWS }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Form::Dense(_, _, matrix) | Form::Rows(_, _, matrix) | Form::Fours(_, _, matrix) => {
                matrix.bytes()
            }
            Form::Packed(_, _, packed) => packed.bytes(),
            Form::PackedFours(_, _, packed) => packed.bytes(),
        }
    }

    /// # Safety
    /// What the kernels of `gemv_i8` and `spmv_i8` ask.
    pub(super) unsafe fn run(&self, call: &RowsI8<'_, ()>) {
        // SAFETY: the caller's; `pick` found the tier's token.
        unsafe {
            match self {
                Form::Dense(_, kernel, matrix) => kernel(&with(call, matrix.tiles_i8(0))),
                Form::Rows(_, kernel, matrix) => kernel(&with(call, matrix.rows())),
                Form::Packed(_, run, packed) => run(&with(call, &**packed)),
                Form::Fours(_, run, matrix) => run(&with(call, matrix.fours())),
                Form::PackedFours(_, run, packed) => run(&with(call, &**packed)),
            }
        }
    }
}

/// The call with a weight.
fn with<'a, W>(call: &RowsI8<'a, ()>, weight: W) -> RowsI8<'a, W> {
    let RowsI8 { rows, x, x_stride, n, out, out_stride, residual, residual_stride, requant, each, .. } =
        *call;
    RowsI8 { weight, rows, x, x_stride, n, out, out_stride, residual, residual_stride, requant, each }
}

impl integer::Epilogue {
    fn output_is_bytes(&self) -> bool {
        matches!(self.output, Output::U8 { .. })
    }
}
