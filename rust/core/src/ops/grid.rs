//! `grid_sample`: planes sampled at places that are computed.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::resize::cubic;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Error, Result, ensure};
use crate::tensor::{DType, Meta};
use serde::{Deserialize, Serialize};

/// How an element between others is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Of two on each axis.
    Bilinear,
    /// The nearest; halves to even.
    Nearest,
    /// Of four on each axis.
    Bicubic,
}

/// What lies outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outside {
    /// Zero.
    Zeros,
    /// The nearest of the border.
    Border,
    /// The plane mirrored.
    Reflection,
}

/// Attributes of `grid_sample`: `(n, c, h, w)` at places `(n, oh, ow, 2)`, x before y, -1 to 1 from one end to the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridSample {
    /// How.
    pub kind: Kind,
    /// What lies outside.
    pub outside: Outside,
    /// Whether the ends are the middles of the outermost elements, or their edges.
    pub align_corners: bool,
}

impl GridSample {
    /// A coordinate in elements.
    fn place(&self, at: f32, n: usize) -> f32 {
        let n = n as f32;
        let at = at + 1.0;
        if self.align_corners { at / 2.0 * (n - 1.0) } else { (at * n - 1.0) / 2.0 }
    }

    /// A coordinate brought inside, as far as that is asked for.
    fn inside(&self, at: f32, n: usize) -> f32 {
        let last = n as f32 - 1.0;
        match self.outside {
            Outside::Zeros => at,
            Outside::Border => held(at, last),
            Outside::Reflection => {
                let (low, high) = if self.align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
                held(mirrored(at, low, high), last)
            }
        }
    }

    /// The element at whole coordinates.
    fn read(&self, x: &[f32], [h, w]: [usize; 2], row: f32, column: f32) -> f32 {
        let (row, column) = if self.kind == Kind::Bicubic {
            (self.inside(row, h), self.inside(column, w))
        } else {
            (row, column)
        };
        // A NaN is nowhere.
        if row >= 0.0 && row < h as f32 && column >= 0.0 && column < w as f32 {
            x[row as usize * w + column as usize]
        } else {
            0.0
        }
    }

    fn sample(&self, x: &[f32], plane: [usize; 2], [at_x, at_y]: [f32; 2]) -> f32 {
        let (row, column) = (self.place(at_y, plane[0]), self.place(at_x, plane[1]));
        let read = |row: f32, column: f32| self.read(x, plane, row, column);
        match self.kind {
            Kind::Nearest => read(
                self.inside(row, plane[0]).round_ties_even(),
                self.inside(column, plane[1]).round_ties_even(),
            ),
            Kind::Bilinear => {
                let (row, column) = (self.inside(row, plane[0]), self.inside(column, plane[1]));
                let (y, x) = (row.floor(), column.floor());
                let (ty, tx) = (row - y, column - x);
                read(y, x) * ((1.0 - ty) * (1.0 - tx))
                    + read(y, x + 1.0) * ((1.0 - ty) * tx)
                    + read(y + 1.0, x) * (ty * (1.0 - tx))
                    + read(y + 1.0, x + 1.0) * (ty * tx)
            }
            Kind::Bicubic => {
                let (y, x) = (row.floor(), column.floor());
                let (wy, wx) = (cubic(row - y), cubic(column - x));
                let along = |y: f32| {
                    wx.iter().zip([-1.0, 0.0, 1.0, 2.0]).map(|(w, d)| w * read(y, x + d)).sum::<f32>()
                };
                wy.iter().zip([-1.0, 0.0, 1.0, 2.0]).map(|(w, d)| w * along(y + d)).sum()
            }
        }
    }
}

/// Within `0..=last`; a NaN becomes 0, as in torch.
fn held(at: f32, last: f32) -> f32 {
    at.max(0.0).min(last.max(0.0))
}

/// Mirrored at `low` and `high` until it is between them.
fn mirrored(at: f32, low: f32, high: f32) -> f32 {
    let span = high - low;
    if span <= 0.0 {
        return 0.0;
    }
    let distance = (at - low).abs();
    let (extra, flips) = (distance % span, (distance / span).floor());
    if flips % 2.0 == 0.0 { extra + low } else { span - extra + low }
}

impl Operator for GridSample {
    const ARITY: (usize, usize) = (2, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, grid) = (args.meta(0)?, args.meta(1)?);
        let float = x.dtype == DType::Float32 && grid.dtype == DType::Float32;
        match (&x.shape[..], &grid.shape[..]) {
            (&[n, c, h, w], &[m, oh, ow, 2]) if n == m && float => {
                ensure!(h > 0 && w > 0, Shape, "input {x} has an empty plane");
                Ok(vec![Meta::new(DType::Float32, [n, c, oh, ow])])
            }
            _ => {
                Err(Error::Graph(format!("{x} at {grid}: expected float32 (n, c, h, w) and (n, oh, ow, 2)")))
            }
        }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        let (channels, plane) = (x.shape[1], [x.shape[2], x.shape[3]]);
        let (from, to) = (plane[0] * plane[1], out.shape[2] * out.shape[3]);
        let (op, planes) = (self.clone(), out.shape[0] * channels);
        Ok(Step::new("grid_sample/scalar", move |frame: &Frame<'_>| {
            let (x, grid) = (frame.input::<f32>(0), frame.input::<f32>(1));
            let out = Shared(frame.output_ptr::<f32>(0));
            frame.pool.run(planes, &|item, _| {
                let x = &x[item * from..][..from];
                let grid = &grid[item / channels * to * 2..][..to * 2];
                // SAFETY: the output holds that many planes; each is one item's.
                let out = unsafe { out.part(item * to, (item + 1) * to) };
                for (out, at) in out.iter_mut().zip(grid.chunks_exact(2)) {
                    *out = op.sample(x, plane, [at[0], at[1]]);
                }
            });
        })
        .into())
    }
}
