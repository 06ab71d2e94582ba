//! `dynamic_linear_i8`: `linear` in integers on float32 rows, each quantized by its own range.
//!
//! In float32, one rounding an operation, for a row `x`:
//!
//! ```text
//! lo = min(min x, 0)   hi = max(max x, 0)   s = (hi - lo) / 255, but 1 where that is below 2⁻¹²⁶
//! zero_point = clamp(rint(-lo / s), 0, 255)   inverse = 1 / s
//! q = clamp(rint(x · inverse) + zero_point, 0, 255)
//! y[r] = f32(Σ W[r] · (q - zero_point)) · (s · scale[r]) + bias[r]
//! ```
//!
//! A row that holds a NaN, or whose range is not finite, gives NaN throughout.

#![allow(unsafe_code, reason = "scratch and parts of one output are shared by the threads")]

use super::frame::Shared;
use super::integer;
use super::linear_i8::Form;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::kernels::strip_i8::rows::{Each, MAX_ROWS, RowsI8};
use crate::kernels::strip_i8::{MAX_DEPTH, Output, Requant};
use crate::kernels::{pick, quantize};
use crate::pool::split;
use crate::tensor::{ALIGN, DType, Meta};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `dynamic_linear_i8` has no attributes. Operands: x, int8 weight, scale a row, bias a row or nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicLinearI8 {}

/// How a row of a range is quantized.
fn each([lo, hi]: [f32; 2]) -> Each {
    let span = (hi - lo) / 255.0;
    let scale = if !span.is_finite() {
        f32::NAN
    } else if span < f32::MIN_POSITIVE {
        1.0
    } else {
        span
    };
    // A NaN becomes 0, which the scale makes a NaN again.
    Each { scale, zero_point: (-lo / scale).round_ties_even().clamp(0.0, 255.0) as i32 }
}

/// Bytes of rows that are quantized at a time: they stay in a second-level cache while the weight passes over them.
const ROUND: usize = 512 * 1024;

impl Operator for DynamicLinearI8 {
    const ARITY: (usize, usize) = (3, 4);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, weight) = (args.meta(0)?, integer::matrix(args)?);
        let (m, k) = (weight.m(), weight.k());
        ensure!(
            x.dtype == DType::Float32 && x.shape.last() == Some(&k) && k > 0 && weight.groups() == 1,
            Graph,
            "weight is {m} x {k} in {} groups, input is {x}: expected float32 of as many features",
            weight.groups()
        );
        ensure!(
            k <= MAX_DEPTH,
            Graph,
            "a depth of {k} may overflow 32 bits; at most {MAX_DEPTH} is computed in int8"
        );
        args.plain(2, DType::Float32, m)?;
        args.optional(3, DType::Float32, m)?;
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("it has a last dimension, as just checked") = m;
        Ok(vec![Meta::new(DType::Float32, shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, stored) = (site.args.meta(0)?, integer::matrix(&site.args)?);
        let (m, k) = (stored.m(), stored.k());
        let vectors = x.elements() / k;
        // What a zero point is multiplied by.
        let offsets: Vec<i32> = integer::row_sums(stored).iter().map(|sum| -sum).collect();
        let scale = Arc::clone(site.args.plain(2, DType::Float32, m)?);
        let bias = site.args.optional(3, DType::Float32, m)?.cloned();
        // Minus zero is what added changes nothing.
        let none = vec![-0.0; if bias.is_none() { m } else { 0 }];
        let form = Form::of(stored, site)?;
        let ((_, range), (_, quantize)) =
            (pick(quantize::RANGE, site.tier), pick(quantize::QUANTIZE, site.tier));
        let threads = site.threads;
        // A part's weights stay in a second-level cache while all rows of a round pass over them.
        let parts = (form.bytes() / (128 * 1024)).clamp(1, m.div_ceil(form.grain()).max(1));
        let parts = split(m, if threads == 1 && vectors == 1 { 1 } else { parts }, form.grain());
        let round = (ROUND / k).clamp(MAX_ROWS, vectors.max(MAX_ROWS));
        // Scratch of the first thread: bytes of a round, and how each of its rows was quantized.
        let bytes = (round * k).next_multiple_of(ALIGN);
        let (name, weight_bytes, values) = (form.name(), form.bytes(), stored.nnz());
        let mut step = Step::new(name, move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<f32>(0), Shared(frame.output_ptr::<f32>(0)));
            let q = Shared(frame.scratch_ptr::<u8>(0));
            let how = Shared(frame.scratch_ptr::<u8>(0).wrapping_add(bytes).cast::<Each>());
            let bias = bias.as_ref().map_or(none.as_slice(), |bias| bias.of::<f32>());
            for first in (0..vectors).step_by(round) {
                let n = round.min(vectors - first);
                let shares = split(n, if threads == 1 { 1 } else { 4 * threads }, 1);
                frame.pool.run(shares.len(), &|item, _| {
                    let (start, end) = shares.at(item);
                    // SAFETY: the first thread's scratch has room for a round; each row is one item's.
                    let (q, how) = unsafe { (q.part(start * k, end * k), how.part(start, end)) };
                    let rows = x[(first + start) * k..(first + end) * k].chunks_exact(k);
                    for ((row, q), how) in rows.zip(q.chunks_exact_mut(k)).zip(how) {
                        *how = each(range(row));
                        let zero_point = how.zero_point as u8;
                        quantize(1.0 / how.scale, quantize::Bytes { zero_point, lo: 0, hi: 255 }, row, q);
                    }
                });
                // SAFETY: as above; nobody writes it before the next round.
                let (q, how) = unsafe { (&*q.part(0, n * k), &*how.part(0, n)) };
                frame.pool.run(parts.len(), &|item, _| {
                    let call = RowsI8 {
                        weight: (),
                        rows: parts.at(item),
                        x: q.as_ptr(),
                        x_stride: k,
                        n,
                        out: out.get().wrapping_add(first * m).cast(),
                        out_stride: m,
                        residual: std::ptr::null(),
                        residual_stride: 0,
                        requant: Requant {
                            offset: &offsets,
                            scale: scale.of::<f32>(),
                            bias,
                            residual: None,
                            output: Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
                        },
                        each: Some(how),
                    };
                    // SAFETY: `q` has the rows, the output their results; no other item has these rows of the weight.
                    unsafe { form.run(&call) };
                });
            }
        });
        step.scratch = bytes + round * size_of::<Each>();
        step.flops = 2.0 * (values * vectors) as f64;
        step.weight_bytes = weight_bytes;
        Ok(step.into())
    }
}
