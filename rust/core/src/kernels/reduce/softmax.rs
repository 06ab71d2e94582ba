//! softmax and its logarithm over one axis: `eˣ⁻ᵐ / Σ eˣ⁻ᵐ`, `m` the greatest.
//!
//! What is less than 2⁻¹²⁶ of the greatest counts as 0. An axis with a NaN, with ∞, or of -∞ alone gives NaN throughout, as in torch.

#![allow(unsafe_code, reason = "y may be x, so both are pointers")]

use super::{BLOCK, Dims};
use crate::kernels::simd::{Op, Simd, each, fold, simd_table};
use crate::kernels::{Impl, math};

/// A kernel: softmax of `x`, of `dims`, over the axis, into `y` of the same dims; with `log` its natural logarithm.
///
/// # Safety
/// The elements `dims` names are readable at `x` and writable at `y`; `inner <= stride`; `y` is `x` or does not overlap it.
pub type SoftmaxFn = unsafe fn(log: bool, dims: Dims, x: *const f32, y: *mut f32);

/// The implementations.
pub static TABLE: &[Impl<SoftmaxFn>] = simd_table!(SoftmaxFn, run);

/// Softmax of `x` into `y`.
///
/// # Panics
/// Where a slice is shorter than `dims`.
pub fn softmax(kernel: SoftmaxFn, log: bool, dims: Dims, x: &[f32], y: &mut [f32]) {
    assert!(
        dims.inner <= dims.stride && x.len() >= dims.len() && y.len() >= dims.len(),
        "slices of {dims:?}"
    );
    // SAFETY: both slices have these elements, and slices of which one is mutable do not overlap.
    unsafe { kernel(log, dims, x.as_ptr(), y.as_mut_ptr()) }
}

/// Softmax of `x` in its place.
///
/// # Panics
/// Where it is shorter than `dims`.
pub fn softmax_in_place(kernel: SoftmaxFn, log: bool, dims: Dims, x: &mut [f32]) {
    assert!(dims.inner <= dims.stride && x.len() >= dims.len(), "a slice of {dims:?}");
    // SAFETY: the slice has these elements; y is x.
    unsafe { kernel(log, dims, x.as_ptr(), x.as_mut_ptr()) }
}

unsafe fn run<S: Simd>(log: bool, dims: Dims, x: *const f32, y: *mut f32) {
    // SAFETY: the table holds this instance only where the tier was detected.
    let s = unsafe { S::assume() };
    if !dims.is_empty() {
        s.run(Call { log, dims, x, y });
    }
}

struct Call {
    log: bool,
    dims: Dims,
    x: *const f32,
    y: *mut f32,
}

impl Op for Call {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Call { log, dims, x, y } = self;
        let Dims { outer, axis, inner, stride, apart } = dims;
        for i in 0..outer {
            // SAFETY: the i-th of `outer` planes, and columns within it.
            unsafe {
                let (x, y) = (x.add(i * apart), y.add(i * apart));
                if dims.is_rows() {
                    row(s, log, x, y, axis);
                    continue;
                }
                let mut c = 0;
                while c + 2 * S::LANES <= inner {
                    columns::<S, 2>(s, log, x.add(c), y.add(c), axis, stride, S::LANES);
                    c += 2 * S::LANES;
                }
                while c < inner {
                    let count = (inner - c).min(S::LANES);
                    columns::<S, 1>(s, log, x.add(c), y.add(c), axis, stride, count);
                    c += count;
                }
            }
        }
    }
}

/// One row, lanes along it.
///
/// # Safety
/// `n` elements at both pointers.
#[inline(always)]
unsafe fn row<S: Simd>(s: S, log: bool, x: *const f32, y: *mut f32, n: usize) {
    let mut most = [s.splat(f32::NEG_INFINITY); 4];
    let mut i = 0;
    while i + 4 * S::LANES <= n {
        for (j, most) in most.iter_mut().enumerate() {
            // SAFETY: four vectors from `i` on lie within `n`.
            *most = s.max(*most, unsafe { s.load(x.add(i + j * S::LANES)) });
        }
        i += 4 * S::LANES;
    }
    while i < n {
        let count = (n - i).min(S::LANES);
        // SAFETY: `count` elements from `i` on lie within `n`.
        most[0] = s.max(most[0], unsafe { s.load_or(x.add(i), count, f32::NEG_INFINITY) });
        i += count;
    }
    let most = s.max(s.max(most[0], most[1]), s.max(most[2], most[3]));
    let most = s.splat(fold!(s, most, |a, b| s.max(a, b)));

    let mut total = 0.0;
    let mut start = 0;
    while start < n {
        let end = (start + BLOCK).min(n);
        let mut sum = s.splat(0.0);
        each!(s, end - start, |i, count| {
            // SAFETY: `count` elements from `start + i` on lie within `n`; the exponentials are kept in y.
            unsafe {
                let x = s.load_or(x.add(start + i), count, f32::NEG_INFINITY);
                let e = math::exp_negative(s, s.sub(x, most));
                if !log {
                    s.store_n(y.add(start + i), count, e);
                }
                sum = s.add(sum, e);
            }
        });
        total += f64::from(s.sum(sum));
        start = end;
    }

    if log {
        let less = s.splat(total.ln() as f32);
        each!(s, n, |i, count| {
            // SAFETY: `count` elements from `i` on lie within `n`.
            unsafe { s.store_n(y.add(i), count, s.sub(s.sub(s.load_n(x.add(i), count), most), less)) }
        });
    } else {
        let scale = s.splat((1.0 / total) as f32);
        each!(s, n, |i, count| {
            // SAFETY: `count` elements from `i` on lie within `n`.
            unsafe { s.store_n(y.add(i), count, s.mul(s.load_n(y.add(i), count), scale)) }
        });
    }
}

/// `V` vectors of columns, each of `count` lanes, `stride` elements from one element of a column to the next.
///
/// # Safety
/// These elements are at both pointers.
#[inline(always)]
unsafe fn columns<S: Simd, const V: usize>(
    s: S,
    log: bool,
    x: *const f32,
    y: *mut f32,
    axis: usize,
    stride: usize,
    count: usize,
) {
    let mut most = [s.splat(f32::NEG_INFINITY); V];
    let mut total = [s.splat(0.0); V];
    // SAFETY: `k < axis`, and the vectors are those the caller names.
    unsafe {
        for k in 0..axis {
            for (v, most) in most.iter_mut().enumerate() {
                *most = s.max(*most, s.load_n(x.add(k * stride + v * S::LANES), count));
            }
        }
        for block in (0..axis).step_by(BLOCK) {
            let mut sum = [s.splat(0.0); V];
            for k in block..(block + BLOCK).min(axis) {
                for v in 0..V {
                    let at = k * stride + v * S::LANES;
                    let e = math::exp_negative(s, s.sub(s.load_n(x.add(at), count), most[v]));
                    if !log {
                        s.store_n(y.add(at), count, e);
                    }
                    sum[v] = s.add(sum[v], e);
                }
            }
            for v in 0..V {
                total[v] = s.add(total[v], sum[v]);
            }
        }
        for total in &mut total {
            *total = if log { math::log(s, *total) } else { s.div(s.splat(1.0), *total) };
        }
        for k in 0..axis {
            for v in 0..V {
                let at = k * stride + v * S::LANES;
                let z = if log {
                    s.sub(s.sub(s.load_n(x.add(at), count), most[v]), total[v])
                } else {
                    s.mul(s.load_n(y.add(at), count), total[v])
                };
                s.store_n(y.add(at), count, z);
            }
        }
    }
}
