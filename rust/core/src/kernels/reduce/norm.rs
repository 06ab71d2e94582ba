//! Layer, RMS, group and instance normalisation: `(x - mean) / √(variance + eps)`, scaled and shifted.
//!
//! The variance is that of the population, of deviations from the mean, in two passes. RMS normalisation leaves the mean at
//! 0.

#![allow(unsafe_code, reason = "y may be x, so both are pointers")]

use super::fold::{Add, Deviation, Same, row};
use super::{BLOCK, Dims};
use crate::kernels::Impl;
use crate::kernels::simd::{Op, Simd, each, simd_table};

/// What is done to each group of elements.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Added to the variance.
    pub eps: f32,
    /// Whether the mean is taken away; RMS normalisation does not.
    pub center: bool,
    /// Factors: one for each element of the axis, or for each channel of the group.
    pub scale: Option<&'a [f32]>,
    /// Addends, as many.
    pub shift: Option<&'a [f32]>,
}

/// A kernel for layer and RMS normalisation: every axis of `x`, of `dims`, into `y` of the same dims; `scale` and `shift`
/// have the axis's length.
///
/// # Safety
/// The elements `dims` names are readable at `x` and writable at `y`; `inner <= stride`; `y` is `x` or does not overlap it.
pub type LayerFn = unsafe fn(norm: &Norm<'_>, dims: Dims, x: *const f32, y: *mut f32);

/// The implementations for layers.
pub static LAYER: &[Impl<LayerFn>] = simd_table!(LayerFn, run_layer);

/// Some channels that are normalised together: `[channels][pitch]`, of which `plane` elements a channel count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Channels of the group; 1 for instance normalisation.
    pub channels: usize,
    /// Elements of a channel.
    pub plane: usize,
    /// Elements from one channel to the next.
    pub pitch: usize,
}

/// A kernel for group and instance normalisation of one group; `scale` and `shift` have its channels' number. What lies
/// between a plane's end and its pitch is neither read nor written.
///
/// # Safety
/// `channels · pitch` elements at `x` are readable and at `y` writable (of the last channel `plane` suffice);
/// `plane <= pitch`; `y` is `x` or does not overlap it.
pub type GroupFn = unsafe fn(norm: &Norm<'_>, group: Group, x: *const f32, y: *mut f32);

/// The implementations for groups.
pub static GROUP: &[Impl<GroupFn>] = simd_table!(GroupFn, run_group);

/// Normalises every axis of `x` into `y`.
///
/// # Panics
/// Where a slice is shorter than `dims`.
pub fn layer_norm(kernel: LayerFn, norm: &Norm<'_>, dims: Dims, x: &[f32], y: &mut [f32]) {
    assert!(
        dims.inner <= dims.stride && x.len() >= dims.len() && y.len() >= dims.len(),
        "slices of {dims:?}"
    );
    // SAFETY: both slices have these elements, and slices of which one is mutable do not overlap.
    unsafe { kernel(norm, dims, x.as_ptr(), y.as_mut_ptr()) }
}

/// Normalises one group of `x` into `y`.
///
/// # Panics
/// Where a slice is shorter than the group.
pub fn group_norm(kernel: GroupFn, norm: &Norm<'_>, group: Group, x: &[f32], y: &mut [f32]) {
    assert!(group.plane <= group.pitch);
    let n = group.channels.checked_sub(1).map_or(0, |others| others * group.pitch + group.plane);
    assert!(n <= x.len() && n <= y.len());
    // SAFETY: both slices have the group, and slices of which one is mutable do not overlap.
    unsafe { kernel(norm, group, x.as_ptr(), y.as_mut_ptr()) }
}

fn check(norm: &Norm<'_>, n: usize) {
    assert!(norm.scale.is_none_or(|scale| scale.len() == n), "one factor for each");
    assert!(norm.shift.is_none_or(|shift| shift.len() == n), "one addend for each");
}

unsafe fn run_layer<S: Simd>(norm: &Norm<'_>, dims: Dims, x: *const f32, y: *mut f32) {
    check(norm, dims.axis);
    // SAFETY: the table holds this instance only where the tier was detected.
    let s = unsafe { S::assume() };
    if !dims.is_empty() {
        s.run(Layer { norm, dims, x, y });
    }
}

unsafe fn run_group<S: Simd>(norm: &Norm<'_>, group: Group, x: *const f32, y: *mut f32) {
    check(norm, group.channels);
    // SAFETY: the table holds this instance only where the tier was detected.
    let s = unsafe { S::assume() };
    if group.channels > 0 && group.plane > 0 {
        s.run(OfGroup { norm, group, x, y });
    }
}

struct Layer<'a> {
    norm: &'a Norm<'a>,
    dims: Dims,
    x: *const f32,
    y: *mut f32,
}

impl Op for Layer<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Layer { norm, dims, x, y } = self;
        let Dims { outer, axis, inner, stride, apart } = dims;
        for i in 0..outer {
            // SAFETY: the i-th of `outer` planes, and columns within it.
            unsafe {
                let (x, y) = (x.add(i * apart), y.add(i * apart));
                if dims.is_rows() {
                    layer_row(s, norm, x, y, axis);
                    continue;
                }
                let mut c = 0;
                while c + 2 * S::LANES <= inner {
                    columns::<S, 2>(s, norm, x.add(c), y.add(c), axis, stride, S::LANES);
                    c += 2 * S::LANES;
                }
                while c < inner {
                    let count = (inner - c).min(S::LANES);
                    columns::<S, 1>(s, norm, x.add(c), y.add(c), axis, stride, count);
                    c += count;
                }
            }
        }
    }
}

/// `1 / √(variance + eps)`.
fn factor(norm: &Norm<'_>, squares: f64, n: usize) -> f32 {
    (1.0 / (squares / n as f64 + f64::from(norm.eps)).sqrt()) as f32
}

/// One row, lanes along it.
///
/// # Safety
/// `n` elements at both pointers.
#[inline(always)]
unsafe fn layer_row<S: Simd>(s: S, norm: &Norm<'_>, x: *const f32, y: *mut f32, n: usize) {
    let (mean, factor) = {
        // SAFETY: the caller's; the slice is gone before y is written.
        let x = unsafe { std::slice::from_raw_parts(x, n) };
        let mean = if norm.center { (row(s, Add, Same, x, 0.0) / n as f64) as f32 } else { 0.0 };
        (mean, factor(norm, row(s, Add, Deviation, x, mean), n))
    };
    let (mean, factor) = (s.splat(mean), s.splat(factor));
    each!(s, n, |i, count| {
        // SAFETY: `count` elements from `i` on lie within `n`, which `check` found to be the length of both slices.
        unsafe {
            let mut z = s.mul(s.sub(s.load_n(x.add(i), count), mean), factor);
            if let Some(scale) = norm.scale {
                z = s.mul(z, s.load_n(scale.as_ptr().add(i), count));
            }
            if let Some(shift) = norm.shift {
                z = s.add(z, s.load_n(shift.as_ptr().add(i), count));
            }
            s.store_n(y.add(i), count, z);
        }
    });
}

/// `V` vectors of columns, each of `count` lanes, `stride` elements from one element of a column to the next.
///
/// # Safety
/// These elements are at both pointers.
#[inline(always)]
unsafe fn columns<S: Simd, const V: usize>(
    s: S,
    norm: &Norm<'_>,
    x: *const f32,
    y: *mut f32,
    axis: usize,
    stride: usize,
    count: usize,
) {
    let zero = [s.splat(0.0); V];
    let n = s.splat(axis as f32);
    // SAFETY: `k < axis`, and the vectors are those the caller names.
    unsafe {
        // A sum over the axis in blocks: of the elements, or of their squared deviations.
        macro_rules! sum {
            (|$x:ident, $v:ident| $f:expr) => {{
                let mut total = zero;
                for block in (0..axis).step_by(BLOCK) {
                    let mut sum = zero;
                    for k in block..(block + BLOCK).min(axis) {
                        for $v in 0..V {
                            let $x = s.load_n(x.add(k * stride + $v * S::LANES), count);
                            sum[$v] = s.add(sum[$v], $f);
                        }
                    }
                    for v in 0..V {
                        total[v] = s.add(total[v], sum[v]);
                    }
                }
                total
            }};
        }
        let mut mean = zero;
        if norm.center {
            let sum = sum!(|x, v| x);
            for v in 0..V {
                mean[v] = s.div(sum[v], n);
            }
        }
        let mut factor = sum!(|x, v| {
            let d = s.sub(x, mean[v]);
            s.mul(d, d)
        });
        for factor in &mut factor {
            *factor = s.div(s.splat(1.0), s.sqrt(s.add(s.div(*factor, n), s.splat(norm.eps))));
        }
        for k in 0..axis {
            let scale = norm.scale.map(|scale| s.splat(scale[k]));
            let shift = norm.shift.map(|shift| s.splat(shift[k]));
            for v in 0..V {
                let at = k * stride + v * S::LANES;
                let mut z = s.mul(s.sub(s.load_n(x.add(at), count), mean[v]), factor[v]);
                if let Some(scale) = scale {
                    z = s.mul(z, scale);
                }
                if let Some(shift) = shift {
                    z = s.add(z, shift);
                }
                s.store_n(y.add(at), count, z);
            }
        }
    }
}

struct OfGroup<'a> {
    norm: &'a Norm<'a>,
    group: Group,
    x: *const f32,
    y: *mut f32,
}

impl Op for OfGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let OfGroup { norm, group: Group { channels, plane, pitch }, x, y } = self;
        // SAFETY: the caller's; no slice of x is held while y is written.
        let channel = |c: usize| unsafe { std::slice::from_raw_parts(x.add(c * pitch), plane) };
        let n = channels * plane;
        let (mut sum, mut squares) = (0.0, 0.0);
        if norm.center {
            for c in 0..channels {
                sum += row(s, Add, Same, channel(c), 0.0);
            }
        }
        let mean = (sum / n as f64) as f32;
        for c in 0..channels {
            squares += row(s, Add, Deviation, channel(c), mean);
        }
        let factor = factor(norm, squares, n);
        for c in 0..channels {
            // (x - mean)·a + b, the mean taken away first: it may be large beside the deviations.
            let a = s.splat(factor * norm.scale.map_or(1.0, |scale| scale[c]));
            let b = s.splat(norm.shift.map_or(0.0, |shift| shift[c]));
            let mean = s.splat(mean);
            each!(s, plane, |i, count| {
                // SAFETY: `count` elements from `i` on lie within the channel's plane.
                unsafe {
                    let z = s.sub(s.load_n(x.add(c * pitch + i), count), mean);
                    s.store_n(y.add(c * pitch + i), count, s.mul_add(z, a, b));
                }
            });
        }
    }
}
