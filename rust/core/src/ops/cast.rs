//! `cast`: another element type.
//!
//! Floats become integers by dropping the fraction, integers narrower ones by dropping high bits, anything but zero is true.
//! Where C leaves the result open (a float that the integer cannot hold), it is the nearest 64-bit integer's low bits.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]
#![allow(clippy::cast_lossless, clippy::unnecessary_cast, reason = "one expression for every pair of types")]

use super::frame::Shared;
use super::{Args, Frame, Operator, Prepared, Site, Step, parallel};
use crate::error::{Error, Result, ensure};
use crate::tensor::{DType, Meta};
use bytemuck::Pod;
use serde::{Deserialize, Serialize};

/// Attributes of `cast`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cast {
    /// The new type.
    pub dtype: DType,
}

type Convert = fn(&Frame<'_>);

fn each<A: Pod + Sync, B: Pod>(frame: &Frame<'_>, f: impl Fn(A) -> B + Sync) {
    let (x, out) = (frame.input::<A>(0), Shared(frame.output_ptr::<B>(0)));
    parallel(frame.pool, x.len(), 64, &|start, end| {
        // SAFETY: the output has as many elements as the operand; each range is one thread's.
        let out = unsafe { out.part(start, end) };
        for (out, &x) in out.iter_mut().zip(&x[start..end]) {
            *out = f(x);
        }
    });
}

macro_rules! from {
    ($T:ty, $to:expr) => {
        match $to {
            DType::Float32 => Some((|frame| each(frame, |x: $T| x as f32)) as Convert),
            DType::Int64 => Some((|frame| each(frame, |x: $T| x as i64)) as Convert),
            DType::Int32 => Some((|frame| each(frame, |x: $T| x as i64 as i32)) as Convert),
            DType::UInt8 => Some((|frame| each(frame, |x: $T| x as i64 as u8)) as Convert),
            DType::Int8 => Some((|frame| each(frame, |x: $T| x as i64 as i8)) as Convert),
            DType::Bool => Some((|frame| each(frame, |x: $T| u8::from(x != 0 as $T))) as Convert),
            DType::Float16 => None,
        }
    };
}

fn convert(from: DType, to: DType) -> Option<Convert> {
    match from {
        DType::Float32 => from!(f32, to),
        DType::Int64 => from!(i64, to),
        DType::Int32 => from!(i32, to),
        DType::UInt8 | DType::Bool => from!(u8, to),
        DType::Int8 => from!(i8, to),
        DType::Float16 => None,
    }
}

impl Operator for Cast {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        ensure!(convert(x.dtype, self.dtype).is_some(), Graph, "{x} cannot become {}", self.dtype);
        Ok(vec![Meta::new(self.dtype, x.shape.clone())])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let from = site.args.meta(0)?.dtype;
        if from == self.dtype {
            return Ok(Prepared::Alias);
        }
        let run = convert(from, self.dtype)
            .ok_or_else(|| Error::Graph(format!("{from} cannot become {}", self.dtype)))?;
        Ok(Step::new("cast/scalar", run).into())
    }
}
