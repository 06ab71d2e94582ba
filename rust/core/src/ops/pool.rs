//! `pool` and `adaptive_pool`: the greatest or the mean of windows, of float32 or of bytes; `mean_i8`: the mean of bytes.
//!
//! What becomes of the mean of bytes is said in `kernels/pool_i8`.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::integer::Bytes;
use super::reduce::{Plane, reduced};
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::{Error, Result, ensure};
use crate::isa::Tier;
use crate::kernels::pool_f32::Divisor;
use crate::kernels::pool_i8::Rescale;
use crate::kernels::window::Window2;
use crate::kernels::{pick, pool_f32, pool_i8, relayout};
use crate::tensor::{DType, Meta, Planes};
use serde::{Deserialize, Serialize};

/// What is made of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The greatest.
    Max,
    /// The mean.
    Avg,
}

/// How the mean of bytes becomes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// The byte of the input that stands for zero.
    pub x_zero_point: u8,
    /// What a step of the input is worth, in steps of the output.
    pub scale: f32,
    /// How the mean is stored.
    pub output: Bytes,
}

impl From<Mean> for Rescale {
    fn from(Mean { x_zero_point, scale, output: Bytes { zero_point, lo, hi } }: Mean) -> Rescale {
        Rescale { x_zero_point, scale, zero_point, lo, hi }
    }
}

/// Checks that a type and the presence of [`Mean`] go together.
fn typed(x: &Meta, kind: Kind, mean: Option<&Mean>) -> Result<()> {
    let sound = match x.dtype {
        DType::Float32 => mean.is_none(),
        DType::UInt8 => mean.is_some() == (kind == Kind::Avg),
        _ => false,
    };
    ensure!(sound, Graph, "input {x}: {kind:?} pooling takes float32, or uint8 with the scale of a mean");
    ensure!(
        mean.is_none_or(|mean| mean.output.lo <= mean.output.hi),
        Graph,
        "output bytes are an empty range"
    );
    Ok(())
}

/// Rows and columns of a value `(n, channels, *plane)`; a sequence is a plane of one row.
fn plane(x: &Meta) -> Result<[usize; 2]> {
    match x.shape[..] {
        [_, _, w] => Ok([1, w]),
        [_, _, h, w] => Ok([h, w]),
        _ => Err(Error::Graph(format!("input {x}: expected rank 3 or 4"))),
    }
}

/// The output of a pooling with planes of that size.
fn output(x: &Meta, [oh, ow]: [usize; 2]) -> Meta {
    let plane: &[usize] = if x.shape.len() == 3 { &[ow] } else { &[oh, ow] };
    Meta::new(x.dtype, [&x.shape[..2], plane].concat())
}

/// A step that computes every plane of the output from the same plane of the input.
fn over_planes<T: bytemuck::Pod + Sync>(
    name: &str,
    site: &Site<'_>,
    body: impl Fn(&[T], &mut [T]) + Send + Sync + 'static,
) -> Result<Prepared> {
    let (from, to) =
        (Planes::of(site.args.meta(0)?, site.layouts[0]), Planes::of(&site.outputs[0], site.layout));
    let group = (16 * 1024 / from.pitch.max(1)).max(1);
    let planes = to.n * to.channels;
    Ok(Step::new(name, move |frame: &Frame<'_>| {
        let (x, out) = (frame.input::<T>(0), Shared(frame.output_ptr::<T>(0)));
        frame.pool.run(planes.div_ceil(group), &|item, _| {
            for plane in item * group..((item + 1) * group).min(planes) {
                // SAFETY: the output holds that many planes a pitch apart; each is one item's.
                let out = unsafe { out.part(plane * to.pitch, plane * to.pitch + to.plane) };
                body(&x[plane * from.pitch..][..from.plane], out);
            }
        });
    })
    .into())
}

/// Attributes of `pool`; one entry an axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// What is made of a window.
    pub kind: Kind,
    /// Its size.
    pub kernel: Vec<usize>,
    /// Inputs from one window to the next.
    pub stride: Vec<usize>,
    /// Padding before and after, which is never the greatest.
    pub padding: Vec<[usize; 2]>,
    /// Inputs from one element of a window to the next.
    pub dilation: Vec<usize>,
    /// Whether a last window that is not whole counts.
    #[serde(default)]
    pub ceil_mode: bool,
    /// Whether padding counts as elements of a mean.
    #[serde(default)]
    pub count_include_pad: bool,
    /// What a sum is divided by, if not by the number of elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divisor: Option<usize>,
    /// How a mean of bytes is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Mean>,
}

impl Pool {
    fn window(&self, x: &Meta) -> Result<(Window2, [[usize; 2]; 2])> {
        let input = plane(x)?;
        let axes = x.shape.len() - 2;
        let sound =
            [self.kernel.len(), self.stride.len(), self.padding.len(), self.dilation.len()] == [axes; 4];
        ensure!(sound, Graph, "input {x}: kernel, stride, padding and dilation have other axes");
        let pair = |values: &[usize]| if axes == 1 { [1, values[0]] } else { [values[0], values[1]] };
        let padding = if axes == 1 { [[0, 0], self.padding[0]] } else { [self.padding[0], self.padding[1]] };
        let window = Window2::padded(
            input,
            pair(&self.kernel),
            pair(&self.stride),
            pair(&self.dilation),
            padding,
            self.ceil_mode,
        );
        let window = window
            .ok_or_else(|| Error::Shape(format!("input {x}: a window of {:?} does not fit", self.kernel)))?;
        Ok((window, padding))
    }
}

impl Operator for Pool {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        typed(x, self.kind, self.mean.as_ref())?;
        let plain = self.dilation.iter().all(|&d| d == 1);
        ensure!(self.kind == Kind::Max || plain, Graph, "a mean has no dilation, got {:?}", self.dilation);
        ensure!(self.divisor != Some(0), Graph, "a sum cannot be divided by 0");
        Ok(vec![output(x, self.window(x)?.0.output())])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Features
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let (window, [rows, columns]) = self.window(site.args.meta(0)?)?;
        let divisor = match self.divisor {
            Some(divisor) => Divisor::Fixed(divisor),
            None if self.count_include_pad => Divisor::Padded { after: [rows[1], columns[1]] },
            None => Divisor::Inside,
        };
        let ((tier_f32, floats), (tier_i8, bytes)) =
            (pick(pool_f32::TABLE, site.tier), pick(pool_i8::TABLE, site.tier));
        let (name_f32, name_i8) = (format!("pool_f32/{tier_f32}"), format!("pool_i8/{tier_i8}"));
        match (site.outputs[0].dtype, self.kind, self.mean) {
            (DType::UInt8, _, Some(mean)) => {
                let rescale = mean.into();
                over_planes::<u8>(&name_i8, site, move |x, out| {
                    (bytes.average)(&window, divisor, rescale, x, out);
                })
            }
            (DType::UInt8, _, None) => over_planes::<u8>(&name_i8, site, move |x, out| {
                (bytes.max)(&window, x, out);
            }),
            (_, Kind::Max, _) => over_planes::<f32>(&name_f32, site, move |x, out| {
                (floats.max)(&window, x, out);
            }),
            (_, Kind::Avg, _) => over_planes::<f32>(&name_f32, site, move |x, out| {
                (floats.average)(&window, divisor, x, out);
            }),
        }
    }
}

/// Attributes of `adaptive_pool`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptivePool {
    /// What is made of a window.
    pub kind: Kind,
    /// Outputs of each axis.
    pub output_size: Vec<usize>,
    /// How a mean of bytes is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Mean>,
}

impl AdaptivePool {
    fn sizes(&self, x: &Meta) -> Result<([usize; 2], [usize; 2])> {
        let input = plane(x)?;
        let sizes = match (x.shape.len() - 2, &self.output_size[..]) {
            (1, &[w]) => [1, w],
            (2, &[h, w]) => [h, w],
            _ => {
                return Err(Error::Graph(format!(
                    "input {x}: output size {:?} has other axes",
                    self.output_size
                )));
            }
        };
        ensure!(input.iter().all(|&d| d > 0), Shape, "input {x} has an empty plane");
        Ok((input, sizes))
    }
}

impl Operator for AdaptivePool {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        typed(x, self.kind, self.mean.as_ref())?;
        Ok(vec![output(x, self.sizes(x)?.1)])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Features
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let (input, sizes) = self.sizes(x)?;
        match (x.dtype, self.kind, self.mean) {
            (DType::UInt8, _, Some(mean)) => {
                let rescale = mean.into();
                over_planes::<u8>("pool_i8/scalar", site, move |x, out| {
                    pool_i8::adaptive_average(input, sizes, rescale, x, out);
                })
            }
            (DType::UInt8, _, None) => over_planes::<u8>("pool_i8/scalar", site, move |x, out| {
                pool_i8::adaptive_max(input, sizes, x, out);
            }),
            (_, Kind::Max, _) => over_planes::<f32>("pool_f32/scalar", site, move |x, out| {
                pool_f32::adaptive_max(input, sizes, x, out);
            }),
            (_, Kind::Avg, _) => over_planes::<f32>("pool_f32/scalar", site, move |x, out| {
                pool_f32::adaptive_average(input, sizes, x, out);
            }),
        }
    }
}

/// Attributes of `mean_i8`: the mean of bytes over axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanI8 {
    /// The axes, without repetition.
    pub axes: Vec<usize>,
    /// Whether they stay as dimensions of one element.
    pub keepdim: bool,
    /// How the mean is stored.
    pub mean: Mean,
}

impl Operator for MeanI8 {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.meta(0)?;
        ensure!(x.dtype == DType::UInt8, Graph, "input {x}: expected uint8");
        ensure!(self.mean.output.lo <= self.mean.output.hi, Graph, "output bytes are an empty range");
        Ok(vec![Meta::new(DType::UInt8, reduced(x, &self.axes, self.keepdim)?)])
    }

    fn wants(&self, args: &Args<'_>, _tier: Tier) -> Wants {
        // Whole planes of features are summed where they lie.
        let rank = args.meta(0).map_or(0, |x| x.shape.len());
        let mut axes = self.axes.clone();
        axes.sort_unstable();
        if rank >= 3 && axes.iter().copied().eq(2..rank) { Wants::FromFeatures } else { Wants::Plain }
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let rescale = self.mean.into();
        let (tier, kernels) = pick(pool_i8::TABLE, site.tier);
        let name = format!("pool_i8/{tier}");
        if self.wants(&site.args, site.tier) == Wants::FromFeatures {
            let planes = Planes::of(x, site.layouts[0]);
            return Ok(Step::new(name, move |frame: &Frame<'_>| {
                let (x, out) = (frame.input::<u8>(0), frame.output::<u8>(0));
                for (plane, out) in out.iter_mut().enumerate() {
                    *out = (kernels.mean)(&x[plane * planes.pitch..][..planes.plane], rescale);
                }
            })
            .into());
        }
        let plane = Plane::of(&x.shape, &self.axes);
        let (_, transpose) = pick(relayout::TABLE, site.tier);
        Ok(Step::new(name, move |frame: &Frame<'_>| {
            let out = frame.output::<u8>(0);
            plane.see(transpose, frame.input::<u8>(0), |dims, x| {
                for (o, out) in out.chunks_mut(dims.inner.max(1)).enumerate() {
                    for (i, out) in out.iter_mut().enumerate() {
                        let at = o * dims.axis * dims.inner + i;
                        let column: Vec<u8> = (0..dims.axis).map(|a| x[at + a * dims.inner]).collect();
                        *out = (kernels.mean)(&column, rescale);
                    }
                }
            });
        })
        .into())
    }
}
