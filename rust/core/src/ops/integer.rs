//! What `conv_i8` and `linear_i8` share: how sums become outputs.

use super::{Args, Site};
use crate::error::{Error, Result, ensure};
use crate::kernels::strip_i8::{self, MAX_DEPTH, Requant};
use crate::tensor::{DType, Meta};
use crate::weight::{Matrix, Plain, Structure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How a result is stored in a byte: `clamp(rint(y) + zero_point, lo, hi)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bytes {
    /// The byte that stands for zero.
    pub zero_point: u8,
    /// Least byte.
    pub lo: u8,
    /// Greatest byte.
    pub hi: u8,
}

/// What a byte of an operand stands for: `(q - zero_point) · scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaled {
    /// What one step is worth.
    pub scale: f32,
    /// The byte that stands for zero.
    pub zero_point: u8,
}

/// The integers of a product of int8 weights and uint8 activations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantized {
    /// The byte of the input that stands for zero.
    pub x_zero_point: u8,
    /// How results are stored; none for float32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Bytes>,
    /// What the addend's bytes stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<Scaled>,
}

impl Quantized {
    /// Checks operands 2 (scale), 3 (bias) and 4 (residual) for `m` rows of depth `k`, and gives the output's type.
    pub(super) fn infer(&self, args: &Args<'_>, m: usize, k: usize, shape: Vec<usize>) -> Result<Meta> {
        let x = args.meta(0)?;
        ensure!(x.dtype == DType::UInt8, Graph, "input {x}: expected uint8");
        ensure!(
            k <= MAX_DEPTH,
            Graph,
            "a depth of {k} may overflow 32 bits; at most {MAX_DEPTH} is computed in int8"
        );
        args.plain(2, DType::Float32, m)?;
        args.plain(3, DType::Float32, m)?;
        ensure!(args.has(4) == self.residual.is_some(), Graph, "a residual and its scale go together");
        if let Some(Bytes { lo, hi, .. }) = self.output {
            ensure!(lo <= hi, Graph, "output bytes are within {lo}..={hi}, which is empty");
        }
        if args.has(4) {
            let residual = args.meta(4)?;
            let want = Meta::new(DType::UInt8, shape.clone());
            ensure!(*residual == want, Graph, "residual is {residual}, expected {want}");
        }
        Ok(Meta::new(if self.output.is_some() { DType::UInt8 } else { DType::Float32 }, shape))
    }

    /// The epilogue of a node, whose rows have these sums of weights.
    pub(super) fn epilogue(&self, site: &Site<'_>, sums: &[i32]) -> Result<Epilogue> {
        let m = sums.len();
        Ok(Epilogue {
            offset: sums.iter().map(|sum| -i32::from(self.x_zero_point) * sum).collect(),
            scale: Arc::clone(site.args.plain(2, DType::Float32, m)?),
            bias: Arc::clone(site.args.plain(3, DType::Float32, m)?),
            residual: self
                .residual
                .map(|Scaled { scale, zero_point }| strip_i8::Residual { scale, zero_point }),
            output: match self.output {
                Some(Bytes { zero_point, lo, hi }) => strip_i8::Output::U8 { zero_point, lo, hi },
                None => strip_i8::Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
            },
        })
    }
}

/// [`Requant`], owned.
pub(super) struct Epilogue {
    pub(super) offset: Vec<i32>,
    scale: Arc<Plain>,
    bias: Arc<Plain>,
    pub(super) residual: Option<strip_i8::Residual>,
    pub(super) output: strip_i8::Output,
}

impl Epilogue {
    /// Of rows `start..start + m`.
    pub(super) fn rows(&self, start: usize, m: usize) -> Requant<'_> {
        Requant {
            offset: &self.offset[start..][..m],
            scale: &self.scale.of::<f32>()[start..][..m],
            bias: &self.bias.of::<f32>()[start..][..m],
            residual: self.residual,
            output: self.output,
        }
    }
}

/// An int8 matrix without scales, which is what integer arithmetic takes.
pub(super) fn matrix<'a>(args: &Args<'a>) -> Result<&'a Arc<Matrix>> {
    let matrix = args.matrix(1)?;
    let plain = matrix.dtype() == DType::Int8 && matrix.scales().is_none();
    let low_rank = matches!(matrix.structure(), Structure::LowRank { .. });
    if !plain || low_rank || matrix.unit().height > 1 {
        return Err(Error::Graph(format!(
            "weight is {}, expected dense or sparse int8 without scales and stacks",
            matrix.format()
        )));
    }
    Ok(matrix)
}

/// The sum of each row of an int8 matrix.
pub(super) fn row_sums(matrix: &Matrix) -> Vec<i32> {
    match matrix.structure() {
        Structure::Sparse(sparse) => {
            let mut sums = vec![0i32; matrix.m()];
            // Blocks follow each other, rows do in a block, and a row's values lie together.
            let (size, mut values) = (sparse.unit().size(), sparse.values().of::<i8>());
            for (i, &count) in sparse.counts().iter().enumerate() {
                let (row, rest) = values.split_at(usize::from(count) * size);
                sums[i % matrix.m()] += row.iter().map(|&w| i32::from(w)).sum::<i32>();
                values = rest;
            }
            sums
        }
        _ => (0..matrix.groups()).flat_map(|group| matrix.tiles_i8(group).row_sums()).collect(),
    }
}
