//! `binary`: a function of two variables, element by element, operands broadcast to each other.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants, parallel};
use crate::error::{Error, Result, ensure};
use crate::isa::Tier;
use crate::kernels::binary::{self, Binary, Broadcast};
use crate::kernels::pick;
use crate::tensor::{Layout, Meta, Planes, broadcast};
use serde::{Deserialize, Serialize};

/// Attributes of `binary`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinaryOp {
    /// The function.
    #[serde(rename = "fn")]
    pub function: Binary,
}

/// Whether an operand of `shape` has one number a channel for an output `(n, channels, *plane)`.
fn is_per_channel(shape: &[usize], output: &[usize]) -> bool {
    output.len() >= 3
        && shape.len() == output.len()
        && shape[2..].iter().all(|&d| d == 1)
        && (shape[0] == 1 || shape[0] == output[0])
        && shape[1] == output[1]
}

/// The layouts of a function of two operands, broadcast to each other, whose elements have the size of the output's.
pub(super) fn wants(args: &Args<'_>) -> Wants {
    let (Ok(a), Ok(b)) = (args.meta(0), args.meta(1)) else { return Wants::Plain };
    let Ok(shape) = broadcast(&a.shape, &b.shape) else { return Wants::Plain };
    // A tensor of the file lies plain; a value of the output's shape, or of one number a channel, may lie either way.
    let follows = |i: usize, meta: &Meta| {
        let value = matches!(args.args[i], super::Arg::Value(_));
        meta.elements() == 1 || is_per_channel(&meta.shape, &shape) || (value && meta.shape == shape)
    };
    if shape.len() >= 3 && follows(0, a) && follows(1, b) { Wants::Same } else { Wants::Plain }
}

/// The runs of such a function, and the operand that is not broadcast, if there is one.
pub(super) fn loops(site: &Site<'_>, a: &Meta, b: &Meta, out: &Meta) -> (Broadcast, Option<usize>) {
    // Features are one more dimension: planes a pitch apart, whose gap is computed along.
    // Where planes of the output have no gap it is plain by name, and one number a channel still has planes of its own.
    let spread = site.layout == Layout::Features || site.layouts.contains(&Layout::Features);
    let seen = |meta: &Meta, layout: Layout| -> (Vec<usize>, Vec<usize>) {
        if !spread {
            return (out.shape.clone(), binary::strides(&meta.shape, &out.shape));
        }
        let to = Planes::of(out, Layout::Features);
        let shape = vec![to.n, to.channels, to.pitch];
        let strides = if meta.shape == out.shape {
            vec![to.channels * to.pitch, to.pitch, 1]
        } else if meta.elements() == 1 {
            vec![0; 3]
        } else {
            // One number a channel; as features, each has a plane of its own.
            let one = Planes::of(meta, layout);
            vec![if one.n == 1 { 0 } else { one.channels * one.pitch }, one.pitch, 0]
        };
        (shape, strides)
    };
    let (shape, a_strides) = seen(a, site.layouts[0]);
    let (_, b_strides) = seen(b, site.layouts[1]);
    let whole = |strides: &[usize]| shape.iter().zip(strides).all(|(&d, &s)| d == 1 || s > 0);
    let in_place = [&a_strides, &b_strides].into_iter().position(|strides| whole(strides));
    (Broadcast::new(&shape, &a_strides, &b_strides), in_place)
}

impl Operator for BinaryOp {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (a, b) = (args.meta(0)?, args.meta(1)?);
        ensure!(a.dtype == b.dtype, Graph, "operands are {a} and {b}: expected one type");
        let dtype = self.function.result(a.dtype);
        let dtype = dtype
            .ok_or_else(|| Error::Graph(format!("{:?} is not defined on {}", self.function, a.dtype)))?;
        Ok(vec![Meta::new(dtype, broadcast(&a.shape, &b.shape)?)])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        let Ok(a) = args.meta(0) else { return Wants::Plain };
        let same_size = self.function.result(a.dtype).map(crate::tensor::DType::size) == Some(a.dtype.size());
        if same_size { wants(args) } else { Wants::Plain }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (a, b, out) = (site.args.meta(0)?, site.args.meta(1)?, &site.outputs[0]);
        let (tier, float) = pick(binary::TABLE, site.tier);
        let row =
            binary::row(a.dtype, float).expect("inference asked whether the function is defined on the type");
        let function = self.function;
        let (loops, whole) = loops(site, a, b, out);
        let same_size = a.dtype.size() == out.dtype.size();
        let sizes = [a.dtype.size(), out.dtype.size()];
        let mut step = Step::new(format!("binary/{tier}"), move |frame: &Frame<'_>| {
            let pointer = |i: usize| Shared(frame.input_ptr::<u8>(i).cast_mut());
            let (a, b, out) = (pointer(0), pointer(1), Shared(frame.output_ptr::<u8>(0)));
            parallel(frame.pool, loops.len(), 64, &|start, end| {
                // SAFETY: strides are those of operands of these shapes and layouts; the output is an operand that is not
                // broadcast or apart from both; threads have ranges of their own.
                unsafe { loops.run(row, function, sizes, [a.get(), b.get()], out.get(), start..end) };
            });
        });
        step.in_place = if same_size { whole } else { None };
        Ok(step.into())
    }
}
