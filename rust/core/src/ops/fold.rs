//! `fold` and `unfold`: planes as windows side by side, one row of them for each tap.
//!
//! A transposed convolution is a product with the weight and a `fold` of what comes out, to which a bias is added.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Error, Result, ensure};
use crate::tensor::{DType, Meta};
use serde::{Deserialize, Serialize};

/// No position on an axis, nor the reach of a window, is beyond this: sums of a few of them fit in `usize`.
const LIMIT: usize = 1 << 30;

/// The geometry of windows over a plane: `[y, x]`, a sequence being a plane of one row.
#[derive(Clone, Copy, Debug)]
struct Windows {
    plane: [usize; 2],
    grid: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    before: [usize; 2],
}

/// One entry an axis as `[y, x]`; a sequence has one row.
fn pair(values: &[usize], one: usize) -> [usize; 2] {
    if let [x] = *values { [one, x] } else { [values[0], values[1]] }
}

impl Windows {
    /// Over a plane; `grid` windows or, where it is none, as many as fit between the padding before and after.
    fn new(
        plane: &[usize],
        grid: Option<&[usize]>,
        [kernel, stride, dilation]: [&[usize]; 3],
        padding: &[[usize; 2]],
    ) -> Result<Windows> {
        let axes = plane.len();
        let alike = [kernel.len(), stride.len(), dilation.len(), padding.len()] == [axes; 4];
        ensure!(
            alike && (1..=2).contains(&axes) && grid.is_none_or(|grid| grid.len() == axes),
            Graph,
            "plane, kernel, stride, padding and dilation have different axes"
        );
        let before: Vec<usize> = padding.iter().map(|pair| pair[0]).collect();
        let after: Vec<usize> = padding.iter().map(|pair| pair[1]).collect();
        let (plane, before, after) = (pair(plane, 1), pair(&before, 0), pair(&after, 0));
        let (kernel, stride, dilation) = (pair(kernel, 1), pair(stride, 1), pair(dilation, 1));
        let mut made = [0; 2];
        for axis in 0..2 {
            let least = [kernel[axis], stride[axis], dilation[axis]].into_iter().min();
            let reach = kernel[axis].checked_mul(dilation[axis]).filter(|&reach| reach <= LIMIT);
            let room = plane[axis].saturating_add(before[axis]).saturating_add(after[axis]);
            let (Some(1..), Some(reach), ..=LIMIT) = (least, reach, room) else {
                return Err(Error::Graph(format!(
                    "a window of {kernel:?}, {stride:?} apart, over {plane:?} is none, or reaches beyond 2^30"
                )));
            };
            let reach = reach - dilation[axis] + 1;
            made[axis] = match grid {
                Some(grid) => pair(grid, 1)[axis],
                None => room.checked_sub(reach).map_or(0, |left| left / stride[axis] + 1),
            };
            let last = made[axis].checked_mul(stride[axis]).filter(|&last| last <= LIMIT);
            ensure!(last.is_some(), Graph, "windows over {plane:?} reach beyond 2^30");
        }
        Ok(Windows { plane, grid: made, kernel, stride, dilation, before })
    }

    fn taps(&self) -> usize {
        self.kernel[0].saturating_mul(self.kernel[1])
    }

    fn count(&self) -> usize {
        self.grid[0].saturating_mul(self.grid[1])
    }

    /// Calls `body(window, element)` for every window whose tap lies on an element of the plane.
    fn tap(&self, tap: usize, mut body: impl FnMut(usize, usize)) {
        let taps = [tap / self.kernel[1], tap % self.kernel[1]];
        let at = |axis: usize, window: usize| {
            let at = window * self.stride[axis] + taps[axis] * self.dilation[axis];
            at.checked_sub(self.before[axis]).filter(|&at| at < self.plane[axis])
        };
        for gy in 0..self.grid[0] {
            let Some(y) = at(0, gy) else { continue };
            for gx in 0..self.grid[1] {
                if let Some(x) = at(1, gx) {
                    body(gy * self.grid[1] + gx, y * self.plane[1] + x);
                }
            }
        }
    }
}

/// Attributes of `fold`; one entry an axis. Operand 0 is `(n, channels · taps, *windows)`, operand 1, if it is there, what
/// each channel starts from. What a window has beyond the plane is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// The plane.
    pub output_size: Vec<Size>,
    /// Taps of a window.
    pub kernel: Vec<usize>,
    /// Elements from one window to the next.
    pub stride: Vec<usize>,
    /// By how much the first window begins before the plane.
    pub padding: Vec<usize>,
    /// Elements from one tap to the next.
    pub dilation: Vec<usize>,
}

impl Fold {
    fn windows(&self, x: &Meta, args: &Args<'_>) -> Result<(Vec<usize>, Windows)> {
        ensure!(x.shape.len() >= 3, Graph, "input {x}: expected rank 3 or 4");
        let plane = self.output_size.iter().map(|size| size.dim(args.sizes)).collect::<Result<Vec<_>>>()?;
        let padding: Vec<_> = self.padding.iter().map(|&before| [before, 0]).collect();
        let taps = [&*self.kernel, &*self.stride, &*self.dilation];
        let windows = Windows::new(&plane, Some(&x.shape[2..]), taps, &padding)?;
        Ok((plane, windows))
    }
}

impl Operator for Fold {
    const ARITY: (usize, usize) = (1, 2);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let (plane, windows) = self.windows(x, args)?;
        let (n, rows, taps) = (x.shape[0], x.shape[1], windows.taps());
        let sound = x.dtype == DType::Float32 && rows.is_multiple_of(taps);
        ensure!(sound, Graph, "input {x}: expected float32, {taps} rows for each channel");
        if args.has(1) {
            args.plain(1, DType::Float32, rows / taps)?;
        }
        Ok(vec![Meta::new(DType::Float32, [&[n, rows / taps], &plane[..]].concat())])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (_, windows) = self.windows(site.args.meta(0)?, &site.args)?;
        let out = &site.outputs[0];
        let (planes, channels, plane) =
            (out.shape[0] * out.shape[1], out.shape[1], out.shape[2..].iter().product::<usize>());
        let bias = site.args.optional(1, DType::Float32, channels)?.cloned();
        let (taps, count) = (windows.taps(), windows.count());
        Ok(Step::new("fold/scalar", move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<f32>(0), Shared(frame.output_ptr::<f32>(0)));
            frame.pool.run(planes, &|item, _| {
                // SAFETY: the output holds that many planes; each is one item's.
                let out = unsafe { out.part(item * plane, (item + 1) * plane) };
                out.fill(bias.as_ref().map_or(0.0, |bias| bias.of::<f32>()[item % channels]));
                for tap in 0..taps {
                    let x = &x[(item * taps + tap) * count..][..count];
                    windows.tap(tap, |window, element| out[element] += x[window]);
                }
            });
        })
        .into())
    }
}

/// Attributes of `unfold`: `(n, channels, *plane)` to `(n, channels · taps, windows)`; padding is zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfold {
    /// Taps of a window.
    pub kernel: Vec<usize>,
    /// Elements from one window to the next.
    pub stride: Vec<usize>,
    /// Padding before and after.
    pub padding: Vec<[usize; 2]>,
    /// Elements from one tap to the next.
    pub dilation: Vec<usize>,
}

impl Unfold {
    fn windows(&self, x: &Meta) -> Result<Windows> {
        let sound = x.dtype == DType::Float32 && x.shape.len() >= 3;
        ensure!(sound, Graph, "input {x}: expected float32 of rank 3 or 4");
        let taps = [&*self.kernel, &*self.stride, &*self.dilation];
        Windows::new(&x.shape[2..], None, taps, &self.padding)
    }
}

impl Operator for Unfold {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        let windows = self.windows(x)?;
        let rows = x.shape[1].saturating_mul(windows.taps());
        Ok(vec![Meta::new(DType::Float32, [x.shape[0], rows, windows.count()])])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let windows = self.windows(x)?;
        let (taps, count, plane) = (windows.taps(), windows.count(), x.shape[2..].iter().product::<usize>());
        let rows = site.outputs[0].shape[0] * site.outputs[0].shape[1];
        Ok(Step::new("unfold/scalar", move |frame: &Frame<'_>| {
            let (x, out) = (frame.input::<f32>(0), Shared(frame.output_ptr::<f32>(0)));
            frame.pool.run(rows, &|row, _| {
                // SAFETY: the output holds that many rows; each is one item's.
                let out = unsafe { out.part(row * count, (row + 1) * count) };
                let x = &x[row / taps * plane..][..plane];
                out.fill(0.0);
                windows.tap(row % taps, |window, element| out[window] = x[element]);
            });
        })
        .into())
    }
}
