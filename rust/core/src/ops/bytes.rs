//! Between float32 and bytes, and on bytes: `quantize`, `dequantize`, `lookup_i8`, `add_i8`, `mul_i8`.

#![allow(unsafe_code, reason = "an operand may be the output")]

use super::frame::Shared;
use super::integer::{Bytes, Scaled};
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants, binary, parallel};
use crate::error::{Result, ensure};
use crate::isa::Tier;
use crate::kernels::binary::Run;
use crate::kernels::{pick, quantize};
use crate::tensor::{DType, Meta, broadcast};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

impl From<Bytes> for quantize::Bytes {
    fn from(Bytes { zero_point, lo, hi }: Bytes) -> Self {
        quantize::Bytes { zero_point, lo, hi }
    }
}

impl From<Scaled> for quantize::Operand {
    fn from(Scaled { scale, zero_point }: Scaled) -> Self {
        quantize::Operand { scale, zero_point }
    }
}

fn typed(args: &Args<'_>, i: usize, dtype: DType) -> Result<Meta> {
    let x = args.meta(i)?;
    ensure!(x.dtype == dtype, Graph, "operand {i} is {x}, expected {dtype}");
    Ok(x.clone())
}

/// Attributes of `quantize`: `clamp(rint(x · (1 / scale)) + zero_point, lo, hi)`, the reciprocal being float32's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// What one step is worth.
    pub scale: f32,
    /// The byte that stands for zero.
    pub zero_point: u8,
    /// Least byte.
    #[serde(default)]
    pub lo: u8,
    /// Greatest byte.
    #[serde(default = "greatest")]
    pub hi: u8,
}

fn greatest() -> u8 {
    u8::MAX
}

impl Operator for Quantize {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = typed(args, 0, DType::Float32)?;
        ensure!(
            self.scale > 0.0 && self.lo <= self.hi,
            Graph,
            "scale {} within {}..={}",
            self.scale,
            self.lo,
            self.hi
        );
        Ok(vec![Meta::new(DType::UInt8, x.shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (tier, kernel) = pick(quantize::QUANTIZE, site.tier);
        let inverse = 1.0 / self.scale;
        let bytes = Bytes { zero_point: self.zero_point, lo: self.lo, hi: self.hi }.into();
        Ok(Step::new(format!("quantize/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<f32>(0), Shared(frame.output_ptr::<u8>(0)));
            parallel(frame.pool, x.len(), 64, &|start, end| {
                // SAFETY: the output has an element for each of the operand's; threads have ranges of their own.
                kernel(inverse, bytes, &x[start..end], unsafe { out.part(start, end) });
            });
        })
        .into())
    }
}

/// Attributes of `dequantize`: `f32(q - zero_point) · scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dequantize(pub Scaled);

impl Operator for Dequantize {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        Ok(vec![Meta::new(DType::Float32, typed(args, 0, DType::UInt8)?.shape)])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (tier, kernel) = pick(quantize::DEQUANTIZE, site.tier);
        let operand = self.0.into();
        Ok(Step::new(format!("dequantize/{tier}"), move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<u8>(0), Shared(frame.output_ptr::<f32>(0)));
            parallel(frame.pool, x.len(), 64, &|start, end| {
                // SAFETY: the output has an element for each of the operand's; threads have ranges of their own.
                kernel(operand, &x[start..end], unsafe { out.part(start, end) });
            });
        })
        .into())
    }
}

/// `lookup_i8` has no attributes: `table[x]`, the table being operand 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupI8 {}

impl Operator for LookupI8 {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        args.plain(1, DType::UInt8, 256)?;
        Ok(vec![typed(args, 0, DType::UInt8)?])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Same
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (tier, kernel) = pick(quantize::LOOKUP, site.tier);
        let table = Arc::clone(site.args.plain(1, DType::UInt8, 256)?);
        let mut step = Step::new(format!("lookup_i8/{tier}"), move |frame: &Frame<'_>| {
            let table: &[u8; 256] = table.of::<u8>().try_into().expect("inference counted its entries");
            let (x, out) = (Shared(frame.input_ptr::<u8>(0).cast_mut()), Shared(frame.output_ptr::<u8>(0)));
            parallel(frame.pool, frame.outputs[0].len, 64, &|start, end| {
                // SAFETY: both have that many bytes and are the same or apart; threads have ranges of their own.
                unsafe { kernel(table, x.get().add(start), out.get().add(start), end - start) };
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}

/// Attributes of `add_i8`: what both operands' bytes stand for, in steps of the output, and how the sum is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddI8 {
    /// The first.
    pub a: Scaled,
    /// The second.
    pub b: Scaled,
    /// The sum.
    pub output: Bytes,
}

impl Operator for AddI8 {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (a, b) = (typed(args, 0, DType::UInt8)?, typed(args, 1, DType::UInt8)?);
        ensure!(a == b, Graph, "operands are {a} and {b}: expected one shape");
        ensure!(self.output.lo <= self.output.hi, Graph, "output bytes {:?} are an empty range", self.output);
        Ok(vec![a])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        let values = args.args.iter().all(|arg| matches!(arg, super::Arg::Value(_)));
        if values { Wants::Same } else { Wants::Plain }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (tier, kernel) = pick(quantize::ADD, site.tier);
        let (operands, bytes) = ([self.a.into(), self.b.into()], self.output.into());
        let mut step = Step::new(format!("add_i8/{tier}"), move |frame: &Frame<'_>| {
            let pointer = |i: usize| Shared(frame.input_ptr::<u8>(i).cast_mut());
            let (a, b, out) = (pointer(0), pointer(1), Shared(frame.output_ptr::<u8>(0)));
            parallel(frame.pool, frame.outputs[0].len, 64, &|start, end| {
                let at = |p: Shared<u8>| p.get().wrapping_add(start);
                // SAFETY: all have that many bytes; the output is an operand or apart; threads have ranges of their own.
                unsafe { kernel(operands, bytes, at(a), at(b), at(out), end - start) };
            });
        });
        step.in_place = Some(0);
        Ok(step.into())
    }
}

/// Attributes of `mul_i8`: `clamp(rint(f32((a - a_zero_point) · (b - b_zero_point)) · scale) + zero_point, lo, hi)`,
/// operands broadcast to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MulI8 {
    /// The byte of the first that stands for zero.
    pub a_zero_point: u8,
    /// The byte of the second that stands for zero.
    pub b_zero_point: u8,
    /// What a step of the first times a step of the second is worth, in steps of the output.
    pub scale: f32,
    /// The product.
    pub output: Bytes,
}

impl Operator for MulI8 {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (a, b) = (typed(args, 0, DType::UInt8)?, typed(args, 1, DType::UInt8)?);
        ensure!(self.output.lo <= self.output.hi, Graph, "output bytes {:?} are an empty range", self.output);
        Ok(vec![Meta::new(DType::UInt8, broadcast(&a.shape, &b.shape)?)])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        binary::wants(args)
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (tier, kernel) = pick(quantize::MUL, site.tier);
        let (loops, whole) = binary::loops(site, site.args.meta(0)?, site.args.meta(1)?, &site.outputs[0]);
        let product = quantize::Product {
            zero_points: [self.a_zero_point, self.b_zero_point],
            scale: self.scale,
            bytes: self.output.into(),
        };
        let mut step = Step::new(format!("mul_i8/{tier}"), move |frame: &Frame<'_>| {
            let pointer = |i: usize| Shared(frame.input_ptr::<u8>(i).cast_mut());
            let (a, b, out) = (pointer(0), pointer(1), Shared(frame.output_ptr::<u8>(0)));
            parallel(frame.pool, loops.len(), 64, &|start, end| {
                loops.runs(start..end, |Run { at, offset, steps, n }| {
                    // SAFETY: offsets and steps are those of operands of these shapes and layouts, of which the last
                    // dimension is contiguous; the output is an operand that is not broadcast, or apart from both;
                    // threads have ranges of their own.
                    unsafe {
                        kernel(
                            product,
                            a.get().add(offset[0]),
                            b.get().add(offset[1]),
                            steps,
                            out.get().add(at),
                            n,
                        );
                    }
                });
            });
        });
        step.in_place = whole;
        Ok(step.into())
    }
}
