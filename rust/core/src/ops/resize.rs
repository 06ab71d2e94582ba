//! `resize`: planes of another size, by the nearest element or interpolated, in torch's coordinates.
//!
//! Each axis by itself has, for every output, a few taps of the input and their weights.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Result, ensure};
use crate::tensor::{DType, Meta};
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
        let sound = x.dtype == DType::Float32 && x.shape.len() == axes + 2 && (1..=2).contains(&axes);
        ensure!(sound, Graph, "input {x}: expected float32 with planes of {axes} dimensions");
        ensure!(
            self.scales.as_ref().is_none_or(|scales| scales.len() == axes),
            Graph,
            "scales have other axes"
        );
        let sizes = self.sizes(args)?;
        ensure!(x.shape[2..].iter().all(|&d| d > 0), Shape, "input {x} has an empty plane");
        Ok(vec![Meta::new(DType::Float32, [&x.shape[..2], &sizes[..]].concat())])
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
        let w = x.shape[x.shape.len() - 1];
        let (plane, made): (usize, usize) = (x.shape[2..].iter().product(), sizes.iter().product());
        let planes = x.shape[0] * x.shape[1];
        Ok(Step::new("resize/scalar", move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<f32>(0), Shared(frame.output_ptr::<f32>(0)));
            frame.pool.run(if made == 0 { 0 } else { planes }, &|item, _| {
                let x = &x[item * plane..][..plane];
                // SAFETY: the output holds that many planes; each is one item's.
                let out = unsafe { out.part(item * made, (item + 1) * made) };
                let width = columns.taps.len() / columns.each;
                for (out, rows) in out.chunks_exact_mut(width).zip(rows.taps.chunks_exact(rows.each)) {
                    for (out, columns) in out.iter_mut().zip(columns.taps.chunks_exact(columns.each)) {
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
