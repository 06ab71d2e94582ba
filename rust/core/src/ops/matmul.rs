//! `matmul`: products of matrices that are both computed, batches broadcast to each other.
//!
//! A block of rows of the left matrix is put into the tiles that the kernels read, a strip of columns of the right one into
//! a panel, so that a thread's working set is in its own cache whatever the shapes.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::choice::Runs;
use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Error, Result, ensure};
use crate::kernels::strip::{Epilogue, LANES, Strip, TILE};
use crate::kernels::{gemm_f32, pick, relayout};
use crate::tensor::{DType, Meta, broadcast};
use crate::weight::Tiles;
use serde::{Deserialize, Serialize};

/// Rows of the left matrix that are packed together.
const ROWS: usize = 8 * TILE;

/// `matmul` has no attributes: `(*, m, k)` times `(*, k, n)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matmul {}

/// The batch and the two dimensions of a matrix.
fn taken_apart(meta: &Meta) -> Result<(&[usize], [usize; 2])> {
    match meta.shape[..] {
        [.., rows, columns] if meta.dtype == DType::Float32 => {
            Ok((&meta.shape[..meta.shape.len() - 2], [rows, columns]))
        }
        _ => Err(Error::Graph(format!("operand {meta}: expected float32 of rank 2 or more"))),
    }
}

impl Operator for Matmul {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (a, b) = (args.meta(0)?, args.meta(1)?);
        let ((a_batch, [m, k]), (b_batch, [depth, n])) = (taken_apart(a)?, taken_apart(b)?);
        ensure!(k == depth, Shape, "{a} times {b}: {k} columns, but {depth} rows");
        let mut shape = broadcast(a_batch, b_batch)?;
        shape.extend([m, n]);
        Ok(vec![Meta::new(DType::Float32, shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let ((a_batch, [m, k]), (b_batch, [_, n])) =
            (taken_apart(site.args.meta(0)?)?, taken_apart(site.args.meta(1)?)?);
        let batch = &site.outputs[0].shape[..site.outputs[0].shape.len() - 2];
        // Which matrix of each operand a product takes.
        let mut pairs = vec![];
        let runs = Runs::new(batch, [a_batch, b_batch]);
        runs.walk(0..runs.len(), |from, to, first, advance| {
            pairs.extend((0..to - from).map(|i| [first[0] + i * advance[0], first[1] + i * advance[1]]));
        });
        let (tier, kernel) = pick(gemm_f32::TABLE, site.tier);
        let (_, transpose) = pick(relayout::TABLE, site.tier);
        let (nr, kb) = (kernel.nr, kernel.kb);
        let (row_parts, column_parts) = (m.div_ceil(ROWS), n.div_ceil(nr));
        let (panel_at, out_at) = (ROWS * kb, ROWS * kb + kb * nr);
        let flops = 2.0 * (pairs.len() * m * n) as f64 * k as f64;
        let mut step = Step::new(format!("matmul/{tier}"), move |frame: &Frame<'_>| {
            let (a, b) = (frame.input::<f32>(0), frame.input::<f32>(1));
            let out = Shared(frame.output_ptr::<f32>(0));
            frame.pool.run(pairs.len() * row_parts * column_parts, &|item, worker| {
                let (item, j0) = (item / column_parts, item % column_parts * nr);
                let (product, r0) = (item / row_parts, item % row_parts * ROWS);
                let (rows, columns) = (ROWS.min(m - r0), nr.min(n - j0));
                let (a, b) =
                    (&a[pairs[product][0] * m * k..][..m * k], &b[pairs[product][1] * k * n..][..k * n]);
                let scratch = frame.scratch_ptr::<f32>(worker);
                let tile = scratch.wrapping_add(out_at);
                for k0 in (0..k.max(1)).step_by(kb) {
                    let depth = kb.min(k - k0);
                    let height = rows.next_multiple_of(TILE);
                    // SAFETY: the scratch is this worker's and begins with the tiles, ROWS rows of at most `kb`.
                    let tiles = unsafe { std::slice::from_raw_parts_mut(scratch, height * depth) };
                    for r in (0..rows).step_by(TILE).filter(|_| depth > 0) {
                        let tile = &mut tiles[r * depth..][..TILE * depth];
                        let count = TILE.min(rows - r);
                        if count < TILE {
                            tile.fill(0.0);
                        }
                        relayout::transpose(
                            transpose,
                            (count, depth),
                            (&a[(r0 + r) * k + k0..], k),
                            (tile, TILE),
                        );
                    }
                    // SAFETY: behind the tiles lies the panel, `kb` rows of `nr`.
                    let panel = unsafe { std::slice::from_raw_parts_mut(scratch.add(panel_at), depth * nr) };
                    for (row, panel) in panel.chunks_exact_mut(nr).enumerate() {
                        panel[..columns].copy_from_slice(&b[(k0 + row) * n + j0..][..columns]);
                        // Lanes past the last column are computed, and must not trap on what was there before.
                        panel[columns..columns.next_multiple_of(LANES)].fill(0.0);
                    }
                    let strip = Strip {
                        weight: Tiles::new(rows, depth, &*tiles)
                            .expect("tiles of that depth were just written"),
                        rows: (0, rows),
                        block: (0, depth),
                        panel: panel.as_ptr(),
                        panel_stride: nr,
                        n: columns,
                        out: tile,
                        out_stride: nr,
                        residual: std::ptr::null(),
                        epilogue: Epilogue::NONE,
                        first: k0 == 0,
                        last: k0 + kb >= k,
                    };
                    // SAFETY: `pick` found the tier's token; panel and tile are this worker's, their rows whole vectors.
                    unsafe { (kernel.run)(&strip) };
                }
                for r in 0..rows {
                    let at = (product * m + r0 + r) * n + j0;
                    // SAFETY: the tile's rows were just computed.
                    let row = unsafe { std::slice::from_raw_parts(tile.add(r * nr), columns) };
                    // SAFETY: the output has these rows and columns, which are this item's alone.
                    unsafe { out.part(at, at + columns) }.copy_from_slice(row);
                }
            });
        });
        step.scratch = (out_at + ROWS * nr) * size_of::<f32>();
        step.flops = flops;
        Ok(step.into())
    }
}
