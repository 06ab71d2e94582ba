//! `resize`: planes of another size, by the nearest element or interpolated, in torch's coordinates.
//!
//! Each axis by itself has, for every output, a few taps of the input and their weights. Bytes are copied, or mixed as the
//! numbers they are: whatever they stand for, the output's stand for the same.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants, by_size};
use crate::error::{Result, ensure};
use crate::kernels::{pick, quantize};
use crate::tensor::{DType, Meta, Planes};
use bytemuck::Pod;
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

/// An axis' taps: as many for each output.
#[derive(Clone, Debug)]
struct Taps {
    each: usize,
    taps: Vec<(usize, f32)>,
}

/// Keys' kernel at the distances of four taps from a point `t` behind the second.
pub(super) fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

impl Resize {
    fn taps(&self, n: usize, out: usize, scale: Option<f64>) -> Taps {
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
        let last = n as isize - 1;
        let held = |i: isize| i.clamp(0, last) as usize;
        let mut taps = vec![];
        for o in 0..out {
            let o = o as f32;
            let source = if self.align_corners { o * ratio } else { (o + 0.5) * ratio - 0.5 };
            match self.kind {
                Kind::Nearest => taps.push((held((o * ratio).floor() as isize), 1.0)),
                Kind::NearestExact => taps.push((held(((o + 0.5) * ratio).floor() as isize), 1.0)),
                Kind::Linear => {
                    let source = source.max(0.0);
                    let first = held(source as isize);
                    let t = (source - first as f32).clamp(0.0, 1.0);
                    taps.extend([(first, 1.0 - t), (held(first as isize + 1), t)]);
                }
                Kind::Cubic => {
                    let first = source.floor();
                    let t = (source - first).clamp(0.0, 1.0);
                    taps.extend(
                        cubic(t).iter().enumerate().map(|(i, &w)| (held(first as isize - 1 + i as isize), w)),
                    );
                }
            }
        }
        Taps { each: taps.len() / out.max(1), taps }
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

    fn wants(&self, args: &Args<'_>) -> Wants {
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
        let along = |axis: usize| {
            let scale = self.scales.as_ref().map(|scales| scales[axis]);
            self.taps(x.shape[2 + axis], sizes[axis], scale)
        };
        let columns = along(sizes.len() - 1);
        let one = Taps { each: 1, taps: vec![(0, 1.0)] };
        let rows = if sizes.len() == 2 { along(0) } else { one };
        let (from, to) = (Planes::of(x, site.layouts[0]), Planes::of(&site.outputs[0], site.layout));
        let planes = if to.plane == 0 { 0 } else { to.n * to.channels };
        let walk = Walk { rows, columns, w: x.shape[x.shape.len() - 1], from, to, planes };
        let size = x.dtype.size();
        if matches!(self.kind, Kind::Nearest | Kind::NearestExact) {
            return Ok(Step::new("resize/scalar", move |frame: &Frame<'_>| {
                by_size!(size, copied(frame, &walk));
            })
            .into());
        }
        if x.dtype == DType::UInt8 {
            let (tier, blend) = pick(quantize::BLEND, site.tier);
            let scratch = 2 * walk.width() * size_of::<f32>();
            let mut step = Step::new(format!("resize/{tier}"), move |frame: &Frame<'_>| {
                mixed(frame, &walk, blend);
            });
            step.scratch = scratch;
            return Ok(step.into());
        }
        Ok(Step::new("resize/scalar", move |frame: &Frame<'_>| {
            let Walk { rows, columns, w, .. } = &walk;
            walk.each(frame, |x: &[f32], out: &mut [f32], _| {
                for (out, rows) in out.chunks_exact_mut(walk.width()).zip(rows.each()) {
                    for (out, columns) in out.iter_mut().zip(columns.each()) {
                        let row = |y: usize| {
                            columns.iter().map(|&(at, weight)| x[y * w + at] * weight).sum::<f32>()
                        };
                        *out = rows.iter().map(|&(y, weight)| row(y) * weight).sum();
                    }
                }
            });
        })
        .into())
    }
}

impl Taps {
    fn each(&self) -> std::slice::ChunksExact<'_, (usize, f32)> {
        self.taps.chunks_exact(self.each)
    }
}

/// What becomes of each plane.
struct Walk {
    rows: Taps,
    columns: Taps,
    /// Elements of a row of the input.
    w: usize,
    from: Planes,
    to: Planes,
    /// How many there are, none where they are empty.
    planes: usize,
}

impl Walk {
    /// Elements of a row of the output.
    fn width(&self) -> usize {
        self.columns.taps.len() / self.columns.each
    }

    /// Hands each plane of the input on with that of the output, and the worker that has it.
    fn each<T: Pod + Sync>(&self, frame: &Frame<'_>, body: impl Fn(&[T], &mut [T], usize) + Sync) {
        let (x, out) = (frame.input::<T>(0), Shared(frame.output_ptr::<T>(0)));
        frame.pool.run(self.planes, &|item, worker| {
            let x = &x[item * self.from.pitch..][..self.from.plane];
            let start = item * self.to.pitch;
            // SAFETY: the output holds that many planes, a pitch apart; each is one item's.
            body(x, unsafe { out.part(start, start + self.to.plane) }, worker);
        });
    }
}

/// Every element is one of the input's.
fn copied<T: Pod + Sync>(frame: &Frame<'_>, walk: &Walk) {
    walk.each(frame, |x: &[T], out: &mut [T], _| {
        let width = walk.width();
        let mut last = None;
        for (i, &(y, _)) in walk.rows.taps.iter().enumerate() {
            if last == Some(y) {
                out.copy_within((i - 1) * width..i * width, i * width);
                continue;
            }
            let row = &x[y * walk.w..][..walk.w];
            for (out, &(at, _)) in out[i * width..][..width].iter_mut().zip(&walk.columns.taps) {
                *out = row[at];
            }
            last = Some(y);
        }
    });
}

/// Bytes between others: along each of two rows, which are kept while they last, and then between these.
fn mixed(frame: &Frame<'_>, walk: &Walk, blend: quantize::BlendFn) {
    let width = walk.width();
    walk.each(frame, |x: &[u8], out: &mut [u8], worker| {
        let scratch = Shared(frame.scratch_ptr::<f32>(worker));
        // SAFETY: scratch holds two rows, and is this worker's.
        let (mut first, mut second) = unsafe { scratch.part(0, 2 * width) }.split_at_mut(width);
        let fill = |row: &mut [f32], y: usize| {
            let x = &x[y * walk.w..][..walk.w];
            for (out, taps) in row.iter_mut().zip(walk.columns.each()) {
                let &[(left, near), (right, far)] = taps else { unreachable!("two taps on an axis") };
                *out = f32::from(x[left]) * near + f32::from(x[right]) * far;
            }
        };
        let mut held = [None; 2];
        for (out, taps) in out.chunks_exact_mut(width).zip(walk.rows.each()) {
            // A plane of one dimension has one row, which is mixed with itself.
            let ((upper, near), (lower, far)) = match *taps {
                [(y, weight)] => ((y, weight), (y, 0.0)),
                [upper, lower] => (upper, lower),
                _ => unreachable!("two taps on an axis"),
            };
            if held[0] != Some(upper) && held[1] == Some(upper) {
                std::mem::swap(&mut first, &mut second);
                held.swap(0, 1);
            }
            for (row, (held, y)) in
                [&mut *first, &mut *second].into_iter().zip(held.iter_mut().zip([upper, lower]))
            {
                if *held != Some(y) {
                    fill(row, y);
                    *held = Some(y);
                }
            }
            blend([near, far], first, second, out);
        }
    });
}
