//! `linear`: `y = activation(x Wᵀ + b + residual)` over the last dimension.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::activation::{self, Activation, Apply};
use super::cut::{Outputs, Piece};
use super::frame::Shared;
use super::product::{Chain, Window};
use super::vectors::Vectors;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::kernels::strip::LANES;
use crate::kernels::{pick, relayout};
use crate::tensor::{DType, Layout, Meta, Planes};
use serde::{Deserialize, Serialize};

/// Attributes of `linear`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
}

impl Operator for Linear {
    const ARITY: (usize, usize) = (2, 4);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, weight) = (args.meta(0)?, args.matrix(1)?);
        ensure!(x.dtype == DType::Float32, Graph, "input {x}: expected float32");
        ensure!(weight.groups() == 1, Graph, "weight has {} groups, expected one", weight.groups());
        ensure!(
            x.shape.last() == Some(&weight.k()) && weight.k() > 0,
            Graph,
            "weight is {} x {}, input {x} has other features",
            weight.m(),
            weight.k()
        );
        args.optional(2, DType::Float32, weight.m())?;
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("it has a last dimension, as just checked") = weight.m();
        let output = Meta::new(DType::Float32, shape);
        if args.has(3) {
            let residual = args.meta(3)?;
            ensure!(*residual == output, Graph, "residual is {residual}, expected {output}");
        }
        Ok(vec![output])
    }

    fn wants(&self, args: &Args<'_>, tier: Tier) -> Wants {
        let (Ok(x), Ok(matrix)) = (args.meta(0), args.matrix(1)) else { return Wants::Plain };
        let columns = x.elements() / matrix.k();
        let suits = !Vectors::suits(matrix, columns, tier) && Chain::suits_columns(matrix, columns, tier);
        match (suits, args.has(3)) {
            (false, _) => Wants::Plain,
            // An addend lies plain, and is added where the output does.
            (true, true) => Wants::FromColumns,
            (true, false) => Wants::Columns,
        }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, matrix) = (site.args.meta(0)?, site.args.matrix(1)?);
        let (m, k) = (matrix.m(), matrix.k());
        let columns = x.elements() / k;
        let bias = site.args.optional(2, DType::Float32, m)?.cloned();
        let has_residual = site.args.has(3);
        let bounds = activation::clamp(self.activation);
        let apply = Apply::of(self.activation, site.tier);

        if Vectors::suits(matrix, columns, site.tier) {
            let vectors = Vectors::new(matrix, columns, site.tier, site.threads)?;
            let (scratch, flops, bytes) = (vectors.scratch(), vectors.flops(), vectors.bytes());
            let reason = vectors.reason();
            let mut step = Step::new(vectors.name(), move |frame: &Frame<'_>| {
                let bias = bias.as_ref().map(|bias| bias.of::<f32>());
                let residual = has_residual.then(|| frame.input::<f32>(3));
                vectors.run(frame, bias, residual, bounds);
                if let Some(apply) = apply {
                    apply.to(frame.output(0));
                }
            });
            step.reason = reason;
            step.scratch = scratch * size_of::<f32>();
            step.flops = flops;
            step.weight_bytes = bytes;
            return Ok(step.into());
        }

        let chain = Chain::new(matrix, columns, site.tier)?;
        let (_, transpose) = pick(relayout::TABLE, site.tier);
        let nr = chain.nr();
        // Where the input, or the output, lies as columns, strips of it are read, or written, in place.
        let pitch =
            |meta: &Meta, layout: Layout| (layout == Layout::Columns).then(|| Planes::of(meta, layout).pitch);
        let (from, to) = (pitch(x, site.layouts[0]), pitch(&site.outputs[0], site.layout));
        let outputs = Outputs {
            products: 1,
            m,
            columns,
            nr,
            grain: LANES,
            threads: site.threads,
            parts: chain.parts(from.is_some()),
        };
        let cut = outputs.cut();
        let panel_len = from.map_or_else(|| chain.panel(), |_| 0);
        let tallest = (0..cut.rows.len()).map(|i| cut.rows.at(i)).map(|(a, b)| b - a).max().unwrap_or(0);
        let tile_len = to.map_or(tallest * nr, |_| 0);
        let scratch = panel_len + tile_len + chain.scratch();
        let (name, reason, flops, bytes) = (chain.name(), chain.reason(), chain.flops(), chain.bytes());
        let moved = columns * (k + if has_residual { 2 * m } else { m });
        let transposed = from.map_or(k, |_| 0) + to.map_or(m, |_| 0);
        let estimate = chain.estimate(cut.strips, 1, transposed, moved * size_of::<f32>());
        let mut step = Step::new(name, move |frame: &Frame<'_>| {
            let x = frame.input::<f32>(0);
            let out = Shared(frame.output_ptr::<f32>(0));
            let bias = bias.as_ref().map(|bias| bias.of::<f32>());
            let residual = has_residual.then(|| frame.input::<f32>(3));
            frame.pool.run(cut.items(), &|item, worker| {
                let Piece { columns: (c0, c1), rows: (r0, r1), .. } = cut.at(item);
                let panel = frame.scratch_ptr::<f32>(worker);
                let tile = panel.wrapping_add(panel_len);
                let (row_0, out_stride) = match to {
                    Some(pitch) => (out.get().wrapping_add(c0), pitch),
                    // The tile holds this part's rows alone: row 0 would lie before it.
                    None => (tile.wrapping_sub(r0 * nr), nr),
                };
                let window = Window {
                    group: 0,
                    rows: (r0, r1),
                    n: c1 - c0,
                    out: row_0,
                    out_stride,
                    residual: std::ptr::null(),
                    bias,
                    clamp: if has_residual { activation::clamp(None) } else { bounds },
                };
                let gather = |start: usize, end: usize| {
                    if let Some(pitch) = from {
                        return (x[start * pitch + c0..].as_ptr(), pitch);
                    }
                    // SAFETY: the panel is this worker's, with `nr` floats for each column of a block.
                    let rows = unsafe { std::slice::from_raw_parts_mut(panel, (end - start) * nr) };
                    relayout::transpose(
                        transpose,
                        (c1 - c0, end - start),
                        (&x[c0 * k + start..], k),
                        (rows, nr),
                    );
                    (panel.cast_const(), nr)
                };
                // SAFETY: tile and panel are this worker's, and this part of the output is this item's; rows of all of them are
                // whole vectors.
                unsafe { chain.strip(&window, tile.wrapping_add(tile_len), gather) };
                if let Some(pitch) = to {
                    let rows = (r0..r1).map(|r| (r * pitch + c0, r * pitch + c1));
                    if let Some(apply) = apply {
                        // SAFETY: as above.
                        rows.for_each(|(start, end)| apply.to(unsafe { out.part(start, end) }));
                    }
                    return;
                }
                // SAFETY: the tile's rows were just computed.
                let tile = unsafe { std::slice::from_raw_parts(tile, (r1 - r0) * nr) };
                // SAFETY: the output has these columns, and nobody else rows `r0..r1` of them.
                unsafe {
                    let to = out.get().add(c0 * m + r0).cast();
                    transpose(tile.as_ptr().cast(), nr, to, m, r1 - r0, c1 - c0);
                }
                for c in c0..c1 {
                    // SAFETY: as above.
                    let y = unsafe { out.part(c * m + r0, c * m + r1) };
                    if let Some(residual) = residual {
                        for (y, add) in y.iter_mut().zip(&residual[c * m + r0..]) {
                            *y = activation::within(*y + add, bounds);
                        }
                    }
                    if let Some(apply) = apply {
                        apply.to(y);
                    }
                }
            });
        });
        step.reason = reason;
        step.estimate = estimate;
        step.scratch = scratch * size_of::<f32>();
        step.flops = flops * columns as f64;
        step.weight_bytes = bytes;
        Ok(step.into())
    }
}
