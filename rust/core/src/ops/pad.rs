//! `pad`: more elements around, constant or taken from within.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::frame::Shared;
use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step, by_size};
use crate::error::{Result, ensure};
use crate::tensor::Meta;
use serde::{Deserialize, Serialize};

/// What lies around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Operand 1, a number of the operand's type; zero where it is absent.
    Constant,
    /// The elements mirrored at the edge, which is not repeated.
    Reflect,
    /// The edge.
    Replicate,
    /// The other end.
    Circular,
}

impl Mode {
    /// The element that lies `i` from the first of `n`, or none where it is the constant.
    fn source(self, i: isize, n: usize) -> Option<usize> {
        let last = n as isize - 1;
        let at = match self {
            Mode::Reflect if i < 0 => -i,
            Mode::Reflect if i > last => 2 * last - i,
            Mode::Constant | Mode::Reflect => i,
            Mode::Replicate => i.clamp(0, last.max(0)),
            Mode::Circular => i.rem_euclid(n.max(1) as isize),
        };
        usize::try_from(at).ok().filter(|&at| at < n)
    }
}

/// Attributes of `pad`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pad {
    /// Elements before and after, for each axis; not negative.
    pub padding: Vec<[Size; 2]>,
    /// What they are.
    pub mode: Mode,
}

impl Pad {
    fn amounts(&self, x: &Meta, args: &Args<'_>) -> Result<Vec<[usize; 2]>> {
        ensure!(self.padding.len() == x.shape.len(), Graph, "input {x}: padding has other axes");
        let mut amounts = vec![];
        for (pair, &n) in self.padding.iter().zip(&x.shape) {
            let pair = [pair[0].dim(args.sizes)?, pair[1].dim(args.sizes)?];
            let most = match self.mode {
                Mode::Constant => usize::MAX,
                Mode::Reflect => n.saturating_sub(1),
                Mode::Replicate if n > 0 => usize::MAX,
                Mode::Replicate => 0,
                Mode::Circular => n,
            };
            ensure!(pair[0].max(pair[1]) <= most, Shape, "input {x}: no {:?} padding of {pair:?}", self.mode);
            amounts.push(pair);
        }
        Ok(amounts)
    }
}

impl Operator for Pad {
    const ARITY: (usize, usize) = (1, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let mut made = args.meta(0)?.clone();
        if args.has(1) {
            let value = args.meta(1)?;
            let sound = value.dtype == made.dtype && value.elements() == 1 && self.mode == Mode::Constant;
            ensure!(sound, Graph, "padding with {value}: expected one number of {}", made.dtype);
        }
        let amounts = self.amounts(&made, args)?;
        for (d, [low, high]) in made.shape.iter_mut().zip(amounts) {
            *d = d.saturating_add(low).saturating_add(high);
        }
        Ok(vec![made])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        let amounts = self.amounts(x, &site.args)?;
        // The last axis that is padded; what lies behind it is copied whole.
        let Some(last) = amounts.iter().rposition(|pair| *pair != [0, 0]) else { return Ok(Prepared::Alias) };
        let sizes = x.shape.iter().zip(&out.shape).zip(&amounts);
        let axes: Vec<Axis> =
            sizes.map(|((&n, &out), &[low, _])| Axis { low, n, out }).take(last + 1).collect();
        let walk = Walk {
            mode: self.mode,
            rows: if out.shape.contains(&0) { 0 } else { out.shape[..last].iter().product() },
            unit: x.shape[last + 1..].iter().product(),
            axes,
        };
        let size = out.dtype.size();
        Ok(Step::new("pad/scalar", move |frame: &Frame<'_>| by_size!(size, fill(frame, &walk))).into())
    }
}

/// An axis: elements before the operand's, the operand's, and all of the output's.
struct Axis {
    low: usize,
    n: usize,
    out: usize,
}

struct Walk {
    mode: Mode,
    /// The axes up to the last that is padded.
    axes: Vec<Axis>,
    /// Rows of the output, of that last axis each; none where the output has no elements.
    rows: usize,
    /// Elements that stay together.
    unit: usize,
}

impl Walk {
    /// Where index `i` of the output comes from along an axis.
    fn source(&self, axis: &Axis, i: usize) -> Option<usize> {
        let at = i.wrapping_sub(axis.low);
        if at < axis.n { Some(at) } else { self.mode.source(i as isize - axis.low as isize, axis.n) }
    }
}

fn fill<T: bytemuck::Pod + Sync>(frame: &Frame<'_>, walk: &Walk) {
    let x = frame.input::<T>(0);
    let value =
        frame.inputs.get(1).filter(|operand| operand.len > 0).map_or(T::zeroed(), |_| frame.input::<T>(1)[0]);
    let out = Shared(frame.output_ptr::<T>(0));
    let (own, outer) = walk.axes.split_last().expect("an axis is padded");
    let width = own.out * walk.unit;
    let group = (16 * 1024 / width.max(1)).max(1);
    frame.pool.run(walk.rows.div_ceil(group), &|item, _| {
        for row in item * group..((item + 1) * group).min(walk.rows) {
            // SAFETY: rows of the output follow each other; each is one item's.
            let out = unsafe { out.part(row * width, (row + 1) * width) };
            let (mut rest, mut from, mut stride) = (row, Some(0), 1);
            for axis in outer.iter().rev() {
                from = from.zip(walk.source(axis, rest % axis.out)).map(|(from, at)| from + at * stride);
                rest /= axis.out;
                stride *= axis.n;
            }
            let Some(from) = from else {
                out.fill(value);
                continue;
            };
            let x = &x[from * own.n * walk.unit..][..own.n * walk.unit];
            let (before, out) = out.split_at_mut(own.low * walk.unit);
            let (within, after) = out.split_at_mut(x.len());
            within.copy_from_slice(x);
            for (out, first) in [(before, 0), (after, own.low + own.n)] {
                if walk.mode == Mode::Constant {
                    out.fill(value);
                    continue;
                }
                for (i, out) in out.chunks_exact_mut(walk.unit).enumerate() {
                    let at = walk.source(own, first + i).expect("what is not constant comes from somewhere");
                    out.copy_from_slice(&x[at * walk.unit..][..walk.unit]);
                }
            }
        }
    });
}
