//! Folds: what joins two elements, and what is done to each before.

#![allow(unsafe_code, reason = "see mod.rs")]

use super::{BLOCK, Dims, Simd};
use crate::kernels::simd::fold;

/// An associative join of two values.
pub(super) trait Fold: Copy {
    const IDENTITY: f32;
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
    fn join_one(self, a: f64, b: f64) -> f64;
}

/// What is done to an element before it is joined; `aside` is a value of its column.
pub(super) trait Pre: Copy {
    fn pre<S: Simd>(self, s: S, x: S::F, aside: S::F) -> S::F;
}

macro_rules! folds {
    ($($(#[$doc:meta])* $name:ident: $identity:expr, $join:ident, $one:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name;
        impl Fold for $name {
            const IDENTITY: f32 = $identity;
            #[inline(always)]
            fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
                s.$join(a, b)
            }
            #[inline(always)]
            fn join_one(self, a: f64, b: f64) -> f64 {
                $one(a, b)
            }
        }
    )* };
}

folds! {
    /// The sum.
    Add: 0.0, add, |a, b| a + b;
    /// The product.
    Product: 1.0, mul, |a, b| a * b;
    /// The greater; NaN where either is.
    Greater: f32::NEG_INFINITY, max_nan, |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    /// The lesser; NaN where either is.
    Lesser: f32::INFINITY, min_nan, |a: f64, b: f64| if a.is_nan() || a < b { a } else { b };
}

macro_rules! pres {
    ($($(#[$doc:meta])* $name:ident: |$s:ident, $x:ident, $aside:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name;
        impl Pre for $name {
            #[inline(always)]
            fn pre<S: Simd>(self, $s: S, $x: S::F, $aside: S::F) -> S::F {
                $f
            }
        }
    )* };
}

pres! {
    /// The element itself.
    Same: |_s, x, _aside| x;
    /// Its magnitude.
    Abs: |s, x, _aside| s.abs(x);
    /// Its square.
    Square: |s, x, _aside| s.mul(x, x);
    /// The square of its distance from the value aside.
    Deviation: |s, x, mean| {
        let d = s.sub(x, mean);
        s.mul(d, d)
    };
    /// 1 where it is not zero.
    NonZero: |s, x, _aside| s.select(s.eq(x, s.splat(0.0)), s.splat(0.0), s.splat(1.0));
}

/// Folds a row, lanes along it: four vectors at a time, then the lanes, a [`BLOCK`] at a time, these in float64.
#[inline(always)]
pub(super) fn row<S: Simd, F: Fold, P: Pre>(s: S, fold: F, pre: P, x: &[f32], aside: f32) -> f64 {
    let aside = s.splat(aside);
    let mut total = f64::from(F::IDENTITY);
    for block in x.chunks(BLOCK) {
        let (p, n) = (block.as_ptr(), block.len());
        let mut sums = [s.splat(F::IDENTITY); 4];
        let mut i = 0;
        while i + 4 * S::LANES <= n {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: four vectors from `i` on lie within the block.
                let x = unsafe { s.load(p.add(i + j * S::LANES)) };
                *sum = fold.join(s, *sum, pre.pre(s, x, aside));
            }
            i += 4 * S::LANES;
        }
        let mut next = 0;
        while i < n {
            let count = (n - i).min(S::LANES);
            // SAFETY: `count` elements from `i` on lie within the block.
            let x = pre.pre(s, unsafe { s.load_n(p.add(i), count) }, aside);
            let x = if count == S::LANES { x } else { s.select(s.first(count), x, s.splat(F::IDENTITY)) };
            sums[next] = fold.join(s, sums[next], x);
            next += 1;
            i += count;
        }
        let sum = fold.join(s, fold.join(s, sums[0], sums[1]), fold.join(s, sums[2], sums[3]));
        let sum = fold!(s, sum, |a, b| fold.join(s, a, b));
        total = fold.join_one(total, f64::from(sum));
    }
    total
}

/// Folds the columns of one `[axis][stride]` into `out`, of `[inner]`; what `out` held is each column's value aside.
#[inline(always)]
pub(super) fn columns<S: Simd, F: Fold, P: Pre>(
    s: S,
    fold: F,
    pre: P,
    dims: Dims,
    x: &[f32],
    out: &mut [f32],
) {
    let mut c = 0;
    while c < dims.inner {
        if c + 4 * S::LANES <= dims.inner {
            strip::<S, F, P, 4>(s, fold, pre, dims, x, out, [c, S::LANES]);
            c += 4 * S::LANES;
        } else {
            let count = (dims.inner - c).min(S::LANES);
            strip::<S, F, P, 1>(s, fold, pre, dims, x, out, [c, count]);
            c += count;
        }
    }
}

/// `V` vectors of columns from `c` on, each of `count` lanes.
#[inline(always)]
fn strip<S: Simd, F: Fold, P: Pre, const V: usize>(
    s: S,
    fold: F,
    pre: P,
    dims: Dims,
    x: &[f32],
    out: &mut [f32],
    [c, count]: [usize; 2],
) {
    assert!(x.len() >= dims.len() && out.len() == dims.inner);
    let mut total = [s.splat(F::IDENTITY); V];
    let mut aside = total;
    for (v, aside) in aside.iter_mut().enumerate() {
        // SAFETY: the columns `c + v · LANES ..` of `count` lie within `out`.
        *aside = unsafe { s.load_n(out.as_ptr().add(c + v * S::LANES), count) };
    }
    for block in (0..dims.axis).step_by(BLOCK) {
        let mut sums = [s.splat(F::IDENTITY); V];
        for k in block..dims.axis.min(block + BLOCK) {
            for v in 0..V {
                // SAFETY: row `k` of the axis has these columns.
                let x = unsafe { s.load_n(x.as_ptr().add(k * dims.stride + c + v * S::LANES), count) };
                sums[v] = fold.join(s, sums[v], pre.pre(s, x, aside[v]));
            }
        }
        for v in 0..V {
            total[v] = fold.join(s, total[v], sums[v]);
        }
    }
    for (v, total) in total.iter().enumerate() {
        // SAFETY: as for the values aside.
        unsafe { s.store_n(out.as_mut_ptr().add(c + v * S::LANES), count, *total) };
    }
}
