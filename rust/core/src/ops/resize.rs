//! `resize`: planes of another size, by the nearest element or interpolated, in torch's coordinates.
//!
//! Each axis by itself has, for every output, a few taps of the input and their weights. Bytes are copied, or mixed as the
//! numbers they are: whatever they stand for, the output's stand for the same.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants, by_size};
use crate::error::{Error, Result, ensure};
use crate::isa::Tier;
use crate::kernels::{pick, quantize};
use crate::tensor::{DType, Meta, Planes};
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// How an element between others is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The element at the rounded-down coordinate.
    Nearest,
    /// The element whose middle is nearest.
    NearestExact,
    /// Of two on each axis.
    Linear,
    /// Of four on each axis, by Keys' kernel with a = -3/4.
    Cubic,
}

/// Attributes of `resize`; one entry a dimension of the plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// How.
    pub kind: Kind,
    /// The new plane.
    pub output_size: Vec<Size>,
    /// Whether the corners' middles, not their edges, stay where they are.
    #[serde(default)]
    pub align_corners: bool,
    /// How much larger the caller said it gets, for coordinates; absent where the sizes tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<Vec<f64>>,
}

/// An element of the input along an axis, and its weight.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Tap {
    at: u32,
    weight: f32,
}

/// An axis: for each of its `out` outputs, a few taps of the `n` inputs. They are worked out when they are needed: a file
/// may name more outputs than a run would ever be allowed.
#[derive(Clone, Copy, Debug)]
struct Axis {
    kind: Kind,
    align_corners: bool,
    n: usize,
    out: usize,
    /// Inputs from one output to the next.
    ratio: f32,
}

impl Axis {
    /// Taps of an output.
    fn each(&self) -> usize {
        match self.kind {
            Kind::Nearest | Kind::NearestExact => 1,
            Kind::Linear => 2,
            Kind::Cubic => 4,
        }
    }

    /// All of its taps.
    fn len(&self) -> usize {
        self.out.saturating_mul(self.each())
    }

    /// Works out the taps of every output.
    fn write(&self, taps: &mut [Tap]) {
        for (o, taps) in taps.chunks_exact_mut(self.each()).enumerate() {
            taps.copy_from_slice(&self.taps(o)[..self.each()]);
        }
    }

    /// The taps of an output, the first [`each`](Axis::each) of these.
    fn taps(&self, o: usize) -> [Tap; 4] {
        let last = self.n as isize - 1;
        let tap = |i: isize, weight| Tap { at: i.clamp(0, last) as u32, weight };
        let (o, ratio) = (o as f32, self.ratio);
        let source = if self.align_corners { o * ratio } else { (o + 0.5) * ratio - 0.5 };
        match self.kind {
            Kind::Nearest => [tap((o * ratio).floor() as isize, 1.0); 4],
            Kind::NearestExact => [tap(((o + 0.5) * ratio).floor() as isize, 1.0); 4],
            Kind::Linear => {
                let source = source.max(0.0);
                let first = (source as isize).clamp(0, last);
                let t = (source - first as f32).clamp(0.0, 1.0);
                let (near, far) = (tap(first, 1.0 - t), tap(first + 1, t));
                [near, far, far, far]
            }
            Kind::Cubic => {
                let first = source.floor();
                let weights = cubic((source - first).clamp(0.0, 1.0));
                let first = (first as isize).saturating_sub(1);
                std::array::from_fn(|i| tap(first.saturating_add(i as isize), weights[i]))
            }
        }
    }
}

/// Keys' kernel at the distances of four taps from a point `t` behind the second.
pub(super) fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

impl Resize {
    fn axis(&self, n: usize, out: usize, scale: Option<f64>) -> Axis {
        let ratio = match scale {
            _ if self.align_corners => {
                if out > 1 {
                    (n as f32 - 1.0) / (out as f32 - 1.0)
                } else {
                    0.0
                }
            }
            Some(scale) if scale > 0.0 => (1.0 / scale) as f32,
            _ => n as f32 / out as f32,
        };
        Axis { kind: self.kind, align_corners: self.align_corners, n, out, ratio }
    }

    fn sizes(&self, args: &Args<'_>) -> Result<Vec<usize>> {
        self.output_size.iter().map(|size| size.dim(args.sizes)).collect()
    }
}

impl Operator for Resize {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let axes = self.output_size.len();
        let typed = x.dtype == DType::Float32 || (x.dtype == DType::UInt8 && self.kind != Kind::Cubic);
        let sound = typed && x.shape.len() == axes + 2 && (1..=2).contains(&axes);
        ensure!(
            sound,
            Graph,
            "input {x}: expected float32, or uint8 if not cubic, with planes of {axes} dimensions"
        );
        ensure!(
            self.scales.as_ref().is_none_or(|scales| scales.len() == axes),
            Graph,
            "scales have other axes"
        );
        let sizes = self.sizes(args)?;
        ensure!(x.shape[2..].iter().all(|&d| d > 0), Shape, "input {x} has an empty plane");
        Ok(vec![Meta::new(x.dtype, [&x.shape[..2], &sizes[..]].concat())])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        // A tensor of the file lies plain.
        if args.args.iter().all(|arg| matches!(arg, super::Arg::Value(_))) {
            Wants::Same
        } else {
            Wants::Plain
        }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let sizes = self.sizes(&site.args)?;
        let far = x.shape[2..].iter().find(|&&n| u32::try_from(n).is_err());
        ensure!(far.is_none(), Shape, "input {x} has a plane with a side beyond 2^32");
        let along = |axis: usize| {
            let scale = self.scales.as_ref().map(|scales| scales[axis]);
            self.axis(x.shape[2 + axis], sizes[axis], scale)
        };
        let columns = along(sizes.len() - 1);
        let one = Axis { kind: Kind::Nearest, align_corners: false, n: 1, out: 1, ratio: 1.0 };
        let rows = if sizes.len() == 2 { along(0) } else { one };
        let (from, to) = (Planes::of(x, site.layouts[0]), Planes::of(&site.outputs[0], site.layout));
        let planes = if to.plane == 0 { 0 } else { to.n * to.channels };
        // Bytes are mixed from two rows of floats.
        let mixes = x.dtype == DType::UInt8 && self.kind == Kind::Linear;
        let pair = if mixes { columns.out } else { 0 };
        let scratch =
            (rows.len().saturating_add(columns.len()).saturating_add(pair)).checked_mul(size_of::<Tap>());
        let scratch = scratch.filter(|&bytes| bytes < usize::MAX / 4);
        let scratch =
            scratch.ok_or_else(|| Error::Shape(format!("{} does not fit in memory", site.outputs[0])))?;
        let walk = Walk { rows, columns, w: columns.n, from, to, planes };
        let size = x.dtype.size();
        let mut step = if matches!(self.kind, Kind::Nearest | Kind::NearestExact) {
            Step::new("resize/scalar", move |frame: &Frame<'_>| by_size!(size, copied(frame, &walk)))
        } else if mixes {
            let (tier, blend) = pick(quantize::BLEND, site.tier);
            Step::new(format!("resize/{tier}"), move |frame: &Frame<'_>| mixed(frame, &walk, blend))
        } else {
            Step::new("resize/scalar", move |frame: &Frame<'_>| weighted(frame, &walk))
        };
        step.scratch = scratch;
        Ok(step.into())
    }
}

/// What becomes of each plane.
struct Walk {
    rows: Axis,
    columns: Axis,
    /// Elements of a row of the input.
    w: usize,
    from: Planes,
    to: Planes,
    /// How many there are, none where they are empty.
    planes: usize,
}

/// Parts of the planes that a thread takes one after the other.
const PARTS: usize = 8;

/// The taps of both axes.
#[derive(Clone, Copy)]
struct Taps<'a> {
    rows: &'a [Tap],
    columns: &'a [Tap],
}

impl Walk {
    /// Hands each plane of the input on with that of the output, the taps, and the worker's scratch behind these.
    fn each<T: Pod + Sync>(
        &self,
        frame: &Frame<'_>,
        body: impl Fn(&[T], &mut [T], Taps<'_>, Shared<f32>) + Sync,
    ) {
        let (x, out) = (frame.input::<T>(0), Shared(frame.output_ptr::<T>(0)));
        let (down, across) = (self.rows.len(), self.columns.len());
        // All threads read the taps in the scratch of the first, which has no other use for that part.
        // SAFETY: scratch holds the taps of both axes, and no thread runs yet.
        let taps = unsafe { Shared(frame.scratch_ptr::<Tap>(0)).part(0, down + across) };
        let (rows, columns) = taps.split_at_mut(down);
        self.rows.write(rows);
        self.columns.write(columns);
        let taps = Taps { rows, columns };
        let group = self.planes.div_ceil(PARTS * frame.pool.threads()).max(1);
        frame.pool.run(self.planes.div_ceil(group), &|item, worker| {
            let rest = Shared(frame.scratch_ptr::<Tap>(worker).wrapping_add(down + across).cast());
            for plane in item * group..((item + 1) * group).min(self.planes) {
                let x = &x[plane * self.from.pitch..][..self.from.plane];
                let start = plane * self.to.pitch;
                // SAFETY: the output holds that many planes, a pitch apart; each is one item's.
                body(x, unsafe { out.part(start, start + self.to.plane) }, taps, rest);
            }
        });
    }
}

/// Every element is a weighted sum.
fn weighted(frame: &Frame<'_>, walk: &Walk) {
    let (down, across) = (walk.rows.each(), walk.columns.each());
    walk.each(frame, |x: &[f32], out: &mut [f32], taps, _| {
        for (out, rows) in out.chunks_exact_mut(walk.columns.out).zip(taps.rows.chunks_exact(down)) {
            for (out, columns) in out.iter_mut().zip(taps.columns.chunks_exact(across)) {
                let row = |y: u32| {
                    let x = &x[y as usize * walk.w..];
                    columns.iter().map(|tap| x[tap.at as usize] * tap.weight).sum::<f32>()
                };
                *out = rows.iter().map(|tap| row(tap.at) * tap.weight).sum();
            }
        }
    });
}

/// Every element is one of the input's.
fn copied<T: Pod + Sync>(frame: &Frame<'_>, walk: &Walk) {
    walk.each(frame, |x: &[T], out: &mut [T], taps, _| {
        let mut last: Option<(u32, &[T])> = None;
        for (out, &Tap { at: y, .. }) in out.chunks_exact_mut(walk.columns.out).zip(taps.rows) {
            match last {
                Some((same, row)) if same == y => out.copy_from_slice(row),
                _ => {
                    let row = &x[y as usize * walk.w..][..walk.w];
                    for (out, tap) in out.iter_mut().zip(taps.columns) {
                        *out = row[tap.at as usize];
                    }
                }
            }
            last = Some((y, out));
        }
    });
}

/// Bytes between others: along each of two rows, which are kept while they last, and then between these.
fn mixed(frame: &Frame<'_>, walk: &Walk, blend: quantize::BlendFn) {
    let width = walk.columns.out;
    walk.each(frame, |x: &[u8], out: &mut [u8], taps, scratch| {
        // SAFETY: scratch holds two rows behind the taps, and is this worker's.
        let (mut first, mut second) = unsafe { scratch.part(0, 2 * width) }.split_at_mut(width);
        let fill = |row: &mut [f32], y: u32| {
            let x = &x[y as usize * walk.w..][..walk.w];
            for (out, taps) in row.iter_mut().zip(taps.columns.as_chunks::<2>().0) {
                let &[near, far] = taps;
                *out =
                    f32::from(x[near.at as usize]) * near.weight + f32::from(x[far.at as usize]) * far.weight;
            }
        };
        let mut held = [None; 2];
        let rows = taps.rows.chunks_exact(walk.rows.each());
        for (out, taps) in out.chunks_exact_mut(width).zip(rows) {
            // A plane of one dimension has one row, which is mixed with itself.
            let (upper, lower) = match *taps {
                [only] => (only, Tap { weight: 0.0, ..only }),
                [upper, lower] => (upper, lower),
                _ => unreachable!("two taps on an axis"),
            };
            if held[0] != Some(upper.at) && held[1] == Some(upper.at) {
                std::mem::swap(&mut first, &mut second);
                held.swap(0, 1);
            }
            for (row, (held, y)) in
                [&mut *first, &mut *second].into_iter().zip(held.iter_mut().zip([upper.at, lower.at]))
            {
                if *held != Some(y) {
                    fill(row, y);
                    *held = Some(y);
                }
            }
            blend([upper.weight, lower.weight], first, second, out);
        }
    });
}
