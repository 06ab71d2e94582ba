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

    /// The element that lies `i` from the first of `n`, or none where it is the constant.
    fn source(&self, i: isize, n: usize) -> Option<usize> {
        let last = n as isize - 1;
        let at = match self.mode {
            Mode::Reflect if i < 0 => -i,
            Mode::Reflect if i > last => 2 * last - i,
            Mode::Constant | Mode::Reflect => i,
            Mode::Replicate => i.clamp(0, last.max(0)),
            Mode::Circular => i.rem_euclid(n.max(1) as isize),
        };
        usize::try_from(at).ok().filter(|&at| at < n)
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
        let unit: usize = x.shape[last + 1..].iter().product();
        let sources: Vec<Vec<Option<usize>>> = (0..=last)
            .map(|axis| {
                let low = amounts[axis][0] as isize;
                (0..out.shape[axis]).map(|i| self.source(i as isize - low, x.shape[axis])).collect()
            })
            .collect();
        let mut walk = Walk {
            sources,
            runs: vec![],
            rows: out.shape[..last].iter().product(),
            unit,
            extents: x.shape[..=last].to_vec(),
        };
        for &source in &walk.sources[last] {
            match walk.runs.last_mut() {
                Some((Some(first), len)) if source == Some(*first + *len) => *len += 1,
                Some((None, len)) if source.is_none() => *len += 1,
                _ => walk.runs.push((source, 1)),
            }
        }
        let size = out.dtype.size();
        Ok(Step::new("pad/scalar", move |frame: &Frame<'_>| by_size!(size, fill(frame, &walk))).into())
    }
}

struct Walk {
    /// For each axis up to the last that is padded, where each index of the output comes from.
    sources: Vec<Vec<Option<usize>>>,
    /// The last of these as runs: first index and length.
    runs: Vec<(Option<usize>, usize)>,
    /// Rows of the output: the product of the axes before that one.
    rows: usize,
    /// Elements that stay together.
    unit: usize,
    /// The operand's sizes of these axes.
    extents: Vec<usize>,
}

fn fill<T: bytemuck::Pod + Sync>(frame: &Frame<'_>, walk: &Walk) {
    let x = frame.input::<T>(0);
    let value =
        frame.inputs.get(1).filter(|operand| operand.len > 0).map_or(T::zeroed(), |_| frame.input::<T>(1)[0]);
    let out = Shared(frame.output_ptr::<T>(0));
    let (own, outer) = walk.sources.split_last().expect("an axis is padded");
    let inner = walk.extents[outer.len()];
    let width = own.len() * walk.unit;
    let group = (16 * 1024 / width.max(1)).max(1);
    frame.pool.run(walk.rows.div_ceil(group), &|item, _| {
        for row in item * group..((item + 1) * group).min(walk.rows) {
            // SAFETY: rows of the output follow each other; each is one item's.
            let mut out = unsafe { out.part(row * width, (row + 1) * width) };
            let (mut rest, mut from, mut stride) = (row, Some(0), 1);
            for (sources, &extent) in outer.iter().zip(&walk.extents).rev() {
                from = from.zip(sources[rest % sources.len()]).map(|(from, at)| from + at * stride);
                rest /= sources.len();
                stride *= extent;
            }
            let Some(from) = from else {
                out.fill(value);
                continue;
            };
            for &(first, len) in &walk.runs {
                let (part, left) = out.split_at_mut(len * walk.unit);
                match first {
                    Some(first) => {
                        part.copy_from_slice(&x[(from * inner + first) * walk.unit..][..part.len()]);
                    }
                    None => part.fill(value),
                }
                out = left;
            }
        }
    });
}
