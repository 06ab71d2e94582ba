//! `embedding`: rows of a weight, by number.
//!
//! A weight that other layers multiply with is a matrix, in tiles or sparse, and is read where it lies: a table that a
//! language model shares with its head is in the file once.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::index::{indices, place};
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Error, Result, ensure};
use crate::tensor::{DType, Meta};
use crate::weight::{Matrix, QUAD, SparseRows, Structure, TILE, Tensor, Unit};
use half::f16;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `embedding` has no attributes: operand 0 is row numbers, operand 1 the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {}

/// The table: a matrix, or none where it is plain numbers. And its rows and columns.
fn table(args: &Args<'_>) -> Result<(Option<Arc<Matrix>>, usize, usize)> {
    if let Some(super::Arg::Tensor(Tensor::Matrix(matrix), _)) = args.args.get(1) {
        let has_rows = matches!(matrix.structure(), Structure::Dense(_) | Structure::Sparse(_));
        ensure!(
            has_rows && matrix.groups() == 1,
            Graph,
            "rows are looked up in plain tables, dense and sparse weights, not in {} of {} groups",
            matrix.format(),
            matrix.groups()
        );
        return Ok((Some(Arc::clone(matrix)), matrix.m(), matrix.k()));
    }
    let meta = args.meta(1)?;
    match meta.shape[..] {
        [m, k] if meta.dtype == DType::Float32 => Ok((None, m, k)),
        _ => Err(Error::Graph(format!("table {meta}: expected float32 of rank 2"))),
    }
}

impl Operator for Embedding {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (ids, (_, _, k)) = (indices(args, 0)?, table(args)?);
        Ok(vec![Meta::new(DType::Float32, [ids.shape.as_slice(), &[k]].concat())])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (matrix, m, k) = table(&site.args)?;
        Ok(Step::new("embedding/scalar", move |frame: &Frame<'_>| {
            let ids = frame.input::<i64>(0);
            let out = Shared(frame.output_ptr::<f32>(0));
            let group = (16 * 1024 / k.max(1)).max(1);
            frame.pool.run(ids.len().div_ceil(group), &|item, _| {
                for (i, &id) in ids.iter().enumerate().skip(item * group).take(group) {
                    let Some(row) = place(frame, id, m, false) else { return };
                    // SAFETY: the output has a row for each number; each is one item's.
                    let out = unsafe { out.part(i * k, (i + 1) * k) };
                    match &matrix {
                        Some(matrix) if matches!(matrix.structure(), Structure::Sparse(_)) => {
                            read_sparse(matrix, row, out);
                        }
                        Some(matrix) => read(matrix, row, out),
                        None => out.copy_from_slice(&frame.input::<f32>(1)[row * k..][..k]),
                    }
                }
            });
        })
        .into())
    }
}

/// A row of a sparse matrix.
fn read_sparse(matrix: &Matrix, row: usize, out: &mut [f32]) {
    out.fill(0.0);
    match matrix.unit() {
        Unit::FOUR => read_fours(matrix, row, out),
        Unit { height: 2, .. } => read_stack::<2>(matrix, row, out),
        Unit { height: 4, .. } => read_stack::<4>(matrix, row, out),
        Unit { height: 16, .. } => read_stack::<16>(matrix, row, out),
        _ => read_stack::<1>(matrix, row, out),
    }
}

/// A row of fours of columns.
fn read_fours(matrix: &Matrix, row: usize, out: &mut [f32]) {
    let scale = matrix.scales().map_or(1.0, |scales| scales[row]);
    match matrix.dtype() {
        DType::Float32 => {
            fill(&matrix.fours::<f32>(), row, |at, four| out[at * QUAD..][..QUAD].copy_from_slice(four));
        }
        DType::Float16 => {
            fill(&matrix.fours::<f16>(), row, |at, four| put(&mut out[at * QUAD..], four, f16::to_f32));
        }
        _ => fill(&matrix.fours::<i8>(), row, |at, four| {
            put(&mut out[at * QUAD..], four, |q| f32::from(q) * scale);
        }),
    }
}

/// Puts the real numbers that values stand for at the start of `out`.
fn put<T: Copy>(out: &mut [f32], values: &[T], real: impl Fn(T) -> f32) {
    out.iter_mut().zip(values).for_each(|(out, &value)| *out = real(value));
}

/// A row of stacks of `H` rows.
fn read_stack<const H: usize>(matrix: &Matrix, row: usize, out: &mut [f32]) {
    let scale = matrix.scales().map_or(1.0, |scales| scales[row]);
    let (stack, lane) = (row / H, row % H);
    match matrix.dtype() {
        DType::Float32 => fill(&matrix.stacks::<f32, H>(), stack, |at, values| out[at] = values[lane]),
        DType::Float16 => {
            fill(&matrix.stacks::<f16, H>(), stack, |at, values| out[at] = values[lane].to_f32());
        }
        _ => fill(&matrix.stacks::<i8, H>(), stack, |at, values| out[at] = f32::from(values[lane]) * scale),
    }
}

/// Hands `put` the units of a row and where they belong, in units from the first column.
fn fill<U>(rows: &SparseRows<'_, U>, row: usize, mut put: impl FnMut(usize, &U)) {
    for block in (0..rows.blocks()).map(|b| rows.at(b)) {
        let (tile, count) = (row / TILE, usize::from(block.counts[row]));
        let before: usize = block.counts[tile * TILE..row].iter().map(|&count| usize::from(count)).sum();
        let at = block.starts[tile] as usize + before;
        for (&index, unit) in block.indices[at..][..count].iter().zip(&block.values[at..][..count]) {
            put(block.k0 + usize::from(index), unit);
        }
    }
}

/// A row of a dense matrix.
fn read(matrix: &Matrix, row: usize, out: &mut [f32]) {
    let (tile, lane) = (row / TILE, row % TILE);
    let scale = matrix.scales().map_or(1.0, |scales| scales[row]);
    match matrix.dtype() {
        DType::Float32 => {
            let values = matrix.tiles::<f32>(0).tile(tile).chunks_exact(TILE);
            out.iter_mut().zip(values).for_each(|(out, values)| *out = values[lane]);
        }
        DType::Float16 => {
            let values = matrix.tiles::<f16>(0).tile(tile).chunks_exact(TILE);
            out.iter_mut().zip(values).for_each(|(out, values)| *out = values[lane].to_f32());
        }
        _ => {
            let values = matrix.tiles_i8(0);
            let quads = values.tile(tile).chunks_exact(TILE * QUAD);
            for (out, quad) in out.chunks_mut(QUAD).zip(quads) {
                let quad = &quad[lane * QUAD..][..QUAD];
                out.iter_mut().zip(quad).for_each(|(out, &q)| *out = f32::from(q) * scale);
            }
        }
    }
}
