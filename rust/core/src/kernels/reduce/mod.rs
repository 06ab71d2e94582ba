//! Reductions over one axis, and what is normalised by them.
//!
//! An array is seen as `[outer][axis][inner]` ([`Dims`]), the axis being what is reduced. Where `inner` is 1, SIMD lanes run along the axis (a
//! *row*); elsewhere they run along `inner` and the axis is walked down (*columns*), which is the layout of features.
//!
//! Sums are cascaded: at most `BLOCK` elements are added in float32 before their sum is added to the total, so that the
//! error grows with `BLOCK + n / BLOCK` rather than n. The order depends on shape and tier alone. NaN comes through
//! sums, products, extremes and norms, as in torch.

#![allow(
    unsafe_code,
    reason = "vectors are loaded and stored within slices that the dims were checked against"
)]

use crate::kernels::Impl;
use crate::kernels::simd::{Op, Simd, simd_table};
use serde::{Deserialize, Serialize};

mod fold;
pub mod norm;
pub mod softmax;

use fold::{Abs, Add, Deviation, Fold, Greater, Lesser, NonZero, Pre, Product, Same, Square, columns, row};

/// Elements added up in one go.
const BLOCK: usize = 1024;

/// An array `[outer][axis][stride]` of which `inner` columns are reduced over the axis: all of them where it is contiguous,
/// some where threads share them, or where features have a gap. Between one reduction's elements and the next's there may be
/// a gap as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Reductions that lie one after the other.
    pub outer: usize,
    /// Elements of one reduction.
    pub axis: usize,
    /// Reductions that lie side by side.
    pub inner: usize,
    /// Elements from one of a reduction to the next; at least `inner`.
    pub stride: usize,
    /// Elements from one reduction's first to the next's; at least `axis · stride`.
    pub apart: usize,
}

impl Dims {
    /// A contiguous array.
    pub fn new(outer: usize, axis: usize, inner: usize) -> Dims {
        Dims { outer, axis, inner, stride: inner, apart: axis * inner }
    }

    /// Rows that lie one after the other.
    pub fn rows(rows: usize, n: usize) -> Dims {
        Dims::new(rows, n, 1)
    }

    /// Rows of `n` elements, one every `apart`.
    pub fn planes(rows: usize, n: usize, apart: usize) -> Dims {
        Dims { apart, ..Dims::rows(rows, n) }
    }

    /// The axes `axes` (in any order) of a shape as one, or none where others lie between them: then the array wants
    /// permuting first.
    pub fn collapse(shape: &[usize], axes: &[usize]) -> Option<Dims> {
        // Axes of size 1 lie between nothing.
        let wide = |i: &usize| shape[*i] != 1;
        let first = axes.iter().copied().filter(wide).min().unwrap_or(shape.len());
        let last = axes.iter().copied().filter(wide).max().map_or(first, |last| last + 1);
        if (first..last).filter(wide).any(|i| !axes.contains(&i)) {
            return None;
        }
        let product = |sizes: &[usize]| sizes.iter().product();
        Some(Dims::new(product(&shape[..first]), product(&shape[first..last]), product(&shape[last..])))
    }

    /// The columns `columns` of these alone: of `x` from the first of them on, and of what is as wide as `x`.
    ///
    /// # Panics
    /// Where there are no such columns.
    #[must_use]
    pub fn columns(self, columns: std::ops::Range<usize>) -> Dims {
        assert!(columns.start <= columns.end && columns.end <= self.inner, "columns {columns:?} of {self:?}");
        Dims { inner: columns.len(), ..self }
    }

    /// Elements from the first to the last that is reduced.
    pub fn len(self) -> usize {
        if self.outer * self.axis == 0 || self.inner == 0 {
            return 0;
        }
        (self.outer - 1) * self.apart + (self.axis - 1) * self.stride + self.inner
    }

    fn check<T, U>(self, x: &[T], out: &[U]) {
        assert!(self.inner <= self.stride && self.axis * self.stride <= self.apart, "{self:?}");
        assert!(x.len() >= self.len(), "{} elements for {self:?}", x.len());
        assert_eq!(out.len(), self.reduced(), "results of {self:?}");
    }

    /// Whether each reduction's elements are neighbours, and one reduction follows the other.
    fn is_rows(self) -> bool {
        self.stride == 1
    }

    /// Whether nothing is reduced.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Elements of the reduced array.
    pub fn reduced(self) -> usize {
        self.outer * self.inner
    }
}

/// What is made of the elements of an axis. In a file: an object whose `fn` is its name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fn", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their mean; NaN of none.
    Mean,
    /// The greatest, NaN where one is; -∞ of none.
    Max,
    /// The least, NaN where one is; ∞ of none.
    Min,
    /// Their product.
    Prod,
    /// Their variance: the squared deviations' sum over `max(n - correction, 0)`.
    Var {
        /// What is taken from the number of elements.
        correction: f64,
    },
    /// The root of the variance.
    Std {
        /// As in the variance.
        correction: f64,
    },
    /// `(Σ |x|^p)^(1/p)`; of ∞ the greatest magnitude, of -∞ the least, of 0 the number that are not 0.
    Norm {
        /// The exponent; JSON has no infinities, so these are `"inf"` and `"-inf"` there.
        #[serde(with = "exponent")]
        p: f64,
    },
}

/// An exponent of a norm in JSON.
mod exponent {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Exponent {
        Number(f64),
        Word(String),
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(p: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if p.is_finite() { serializer.serialize_f64(*p) } else { serializer.collect_str(p) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Exponent::deserialize(deserializer)? {
            Exponent::Number(p) => Ok(p),
            Exponent::Word(word) if word == "inf" => Ok(f64::INFINITY),
            Exponent::Word(word) if word == "-inf" => Ok(f64::NEG_INFINITY),
            Exponent::Word(word) => {
                Err(D::Error::custom(format!("p is a number, \"inf\" or \"-inf\", not {word:?}")))
            }
        }
    }
}

/// A kernel of the family: reduces `x`, of `dims`, to `out`, of `[outer][inner]`.
///
/// It panics where `x` is shorter than `dims` or `out` not of its size.
pub type ReduceFn = fn(f: Reduce, dims: Dims, x: &[f32], out: &mut [f32]);

/// The implementations.
pub static TABLE: &[Impl<ReduceFn>] = simd_table!(ReduceFn, run);

/// The rows of the axis one after the other, each with what it is reduced to: `f(i, row, out)` for the `i`-th.
fn walk<T, U>(dims: Dims, x: &[T], out: &mut [U], mut f: impl FnMut(usize, &[T], &mut [U])) {
    dims.check(x, out);
    if dims.is_empty() {
        return;
    }
    for (o, out) in out.chunks_exact_mut(dims.inner).enumerate() {
        for i in 0..dims.axis {
            f(i, &x[o * dims.apart + i * dims.stride..][..dims.inner], out);
        }
    }
}

/// The index along the axis of the greatest (or least) element, the first of equals; a NaN counts as it.
///
/// # Panics
/// Where `x` is shorter than `dims` or `out` not of its size, or the axis is empty and the result is not.
pub fn arg_extreme(greatest: bool, dims: Dims, x: &[f32], out: &mut [i64]) {
    assert!(dims.axis > 0 || out.is_empty(), "an extreme of no elements");
    let better = |new: f32, old: f32| {
        let greater = if greatest { new > old } else { new < old };
        !old.is_nan() && (greater || new.is_nan())
    };
    let mut best = vec![0.0; dims.inner];
    walk(dims, x, out, |i, row, out| {
        if i == 0 {
            best.copy_from_slice(row);
            out.fill(0);
        }
        for ((&new, old), index) in row.iter().zip(&mut best).zip(out) {
            if better(new, *old) {
                (*old, *index) = (new, i as i64);
            }
        }
    });
}

/// Whether any element (or, with `all`, every one) is not zero, a NaN being none, as bytes 0 and 1; of no elements
/// `all` holds.
///
/// # Panics
/// Where `x` is shorter than `dims` or `out` not of its size.
pub fn truth<T: bytemuck::Pod + PartialEq>(all: bool, dims: Dims, x: &[T], out: &mut [u8]) {
    out.fill(u8::from(all));
    walk(dims, x, out, |_, row, out| {
        for (&x, out) in row.iter().zip(out) {
            let one = u8::from(x != T::zeroed());
            *out = if all { *out & one } else { *out | one };
        }
    });
}

/// Sum, product and extremes of integers, wrapping; what else torch computes in floats is none's here.
///
/// # Panics
/// Where `f` is another, `x` is shorter than `dims` or `out` not of its size.
pub fn reduce_i64(f: Reduce, dims: Dims, x: &[i64], out: &mut [i64]) {
    let (identity, join): (i64, fn(i64, i64) -> i64) = match f {
        Reduce::Sum => (0, i64::wrapping_add),
        Reduce::Prod => (1, i64::wrapping_mul),
        Reduce::Max => (i64::MIN, i64::max),
        Reduce::Min => (i64::MAX, i64::min),
        _ => panic!("{f:?} is not a reduction of integers"),
    };
    out.fill(identity);
    walk(dims, x, out, |_, row, out| {
        for (&x, out) in row.iter().zip(out) {
            *out = join(*out, x);
        }
    });
}

fn run<S: Simd>(f: Reduce, dims: Dims, x: &[f32], out: &mut [f32]) {
    dims.check(x, out);
    // SAFETY: the table holds this instance only where the tier was detected.
    let s = unsafe { S::assume() };
    if out.is_empty() {
        return;
    }
    s.run(Call { f, dims, x, out });
}

struct Call<'a> {
    f: Reduce,
    dims: Dims,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Op for Call<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Call { f, dims, x, out } = self;
        let n = dims.axis as f64;
        match f {
            Reduce::Sum => each(s, Add, Same, dims, x, out, |y| y),
            Reduce::Mean => each(s, Add, Same, dims, x, out, |y| y / n),
            Reduce::Max => each(s, Greater, Same, dims, x, out, |y| y),
            Reduce::Min => each(s, Lesser, Same, dims, x, out, |y| y),
            Reduce::Prod => each(s, Product, Same, dims, x, out, |y| y),
            Reduce::Var { correction } | Reduce::Std { correction } => {
                each(s, Add, Same, dims, x, out, |y| y / n);
                let freedom = (n - correction).max(0.0);
                let root = matches!(f, Reduce::Std { .. });
                let finish = |y: f64| if root { (y / freedom).sqrt() } else { y / freedom };
                each(s, Add, Deviation, dims, x, out, finish);
            }
            Reduce::Norm { p: 1.0 } => each(s, Add, Abs, dims, x, out, |y| y),
            Reduce::Norm { p: 2.0 } => each(s, Add, Square, dims, x, out, f64::sqrt),
            Reduce::Norm { p: 0.0 } => each(s, Add, NonZero, dims, x, out, |y| y),
            Reduce::Norm { p: f64::INFINITY } => each(s, Greater, Abs, dims, x, out, |y| y),
            Reduce::Norm { p: f64::NEG_INFINITY } => each(s, Lesser, Abs, dims, x, out, |y| y),
            Reduce::Norm { p } => powers(p, dims, x, out),
        }
    }
}

/// Reduces every row, or all columns, with what was in `out` as the fold's second operand.
#[inline(always)]
fn each<S: Simd, F: Fold, P: Pre>(
    s: S,
    fold: F,
    pre: P,
    dims: Dims,
    x: &[f32],
    out: &mut [f32],
    finish: impl Fn(f64) -> f64,
) {
    let Dims { axis, inner, apart, .. } = dims;
    if dims.is_rows() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = finish(row(s, fold, pre, &x[i * apart..][..axis], *out)) as f32;
        }
    } else {
        for (i, out) in out.chunks_exact_mut(inner).enumerate() {
            let plane = Dims { outer: 1, ..dims };
            columns(s, fold, pre, plane, x.get(i * apart..).unwrap_or_default(), out);
            for out in out {
                *out = finish(f64::from(*out)) as f32;
            }
        }
    }
}

/// A norm of an uncommon exponent, element by element in float64.
fn powers(p: f64, dims: Dims, x: &[f32], out: &mut [f32]) {
    let Dims { axis, inner, stride, apart, .. } = dims;
    for (i, out) in out.iter_mut().enumerate() {
        let start = i / inner * apart + i % inner;
        let sum: f64 = (0..axis).map(|k| f64::from(x[start + k * stride].abs()).powf(p)).sum();
        *out = sum.powf(1.0 / p) as f32;
    }
}

#[cfg(test)]
mod tests;
