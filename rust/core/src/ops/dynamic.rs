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
use crate::kernels::strip_i8::rows::{MAX_ROWS, RowsI8};
use crate::kernels::strip_i8::{MAX_DEPTH, Output, Requant};
use crate::kernels::{pick, quantize};
use crate::pool::split;
use crate::tensor::{ALIGN, DType, Meta};
use crate::weight::TILE;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `dynamic_linear_i8` has no attributes. Operands: x, int8 weight, scale a row, bias a row or nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicLinearI8 {}

/// How a row is quantized.
#[derive(Clone, Copy)]
struct Range {
    scale: f32,
    zero_point: u8,
}

impl Range {
    fn of(x: &[f32]) -> Range {
        let (mut lo, mut hi, mut nan) = (0f32, 0f32, false);
        for &value in x {
            lo = lo.min(value);
            hi = hi.max(value);
            nan |= value.is_nan();
        }
        let span = (hi - lo) / 255.0;
        let scale = if nan || !span.is_finite() {
            f32::NAN
        } else if span < f32::MIN_POSITIVE {
            1.0
        } else {
            span
        };
        // A NaN becomes 0, which the scale makes a NaN again.
        Range { scale, zero_point: (-lo / scale).round_ties_even().clamp(0.0, 255.0) as u8 }
    }
}

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
        let sums = integer::row_sums(stored);
        let scale = Arc::clone(site.args.plain(2, DType::Float32, m)?);
        let bias = site.args.optional(3, DType::Float32, m)?.cloned();
        // Minus zero is what added changes nothing.
        let none = vec![-0.0; if bias.is_none() { m } else { 0 }];
        let form = Form::of(stored, site)?;
        let (_, quantize) = pick(quantize::QUANTIZE, site.tier);
        // A part's weights stay in a second-level cache while all rows of a batch pass over them.
        let parts = (form.bytes() / (128 * 1024)).clamp(1, m.div_ceil(TILE).max(1));
        let parts = split(m, if site.threads == 1 && vectors == 1 { 1 } else { parts }, form.grain());
        // Scratch of the first thread: bytes, offsets and scales of a batch.
        let (bytes, columns) = ((MAX_ROWS * k).next_multiple_of(ALIGN), MAX_ROWS * m);
        let (name, weight_bytes, values) = (form.name(), form.bytes(), stored.nnz());
        let mut step = Step::new(name, move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<f32>(0), Shared(frame.output_ptr::<f32>(0)));
            let base = frame.scratch_ptr::<u8>(0);
            // SAFETY: the first thread's scratch, cut into three; nobody else touches it while this step fills it.
            let (q, offsets, scales) = unsafe {
                let offsets = base.add(bytes).cast::<i32>();
                (
                    Shared(base).part(0, MAX_ROWS * k),
                    Shared(offsets).part(0, columns),
                    Shared(offsets.add(columns).cast::<f32>()).part(0, columns),
                )
            };
            let bias = bias.as_ref().map_or(none.as_slice(), |bias| bias.of::<f32>());
            for first in (0..vectors).step_by(MAX_ROWS) {
                let n = MAX_ROWS.min(vectors - first);
                for i in 0..n {
                    let row = &x[(first + i) * k..][..k];
                    let range = Range::of(row);
                    let all = quantize::Bytes { zero_point: range.zero_point, lo: 0, hi: 255 };
                    quantize(1.0 / range.scale, all, row, &mut q[i * k..][..k]);
                    let zero = i32::from(range.zero_point);
                    offsets[i * m..][..m]
                        .iter_mut()
                        .zip(&sums)
                        .for_each(|(offset, sum)| *offset = -zero * sum);
                    let each = scales[i * m..][..m].iter_mut().zip(scale.of::<f32>());
                    each.for_each(|(product, scale)| *product = range.scale * scale);
                }
                let (q, offsets, scales) = (&*q, &*offsets, &*scales);
                frame.pool.run(parts.len(), &|item, _| {
                    for i in 0..n {
                        let call = RowsI8 {
                            weight: (),
                            rows: parts.at(item),
                            x: q[i * k..].as_ptr(),
                            x_stride: k,
                            n: 1,
                            out: out.get().wrapping_add((first + i) * m).cast(),
                            out_stride: m,
                            residual: std::ptr::null(),
                            residual_stride: 0,
                            requant: Requant {
                                offset: &offsets[i * m..][..m],
                                scale: &scales[i * m..][..m],
                                bias,
                                residual: None,
                                output: Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
                            },
                        };
                        // SAFETY: `q` has the row, the output its result; no other item has these rows of the weight.
                        unsafe { form.run(&call) };
                    }
                });
            }
        });
        step.scratch = bytes + columns * 8;
        step.flops = 2.0 * (values * vectors) as f64;
        step.weight_bytes = weight_bytes;
        Ok(step.into())
    }
}
