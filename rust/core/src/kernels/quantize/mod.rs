//! float32 to bytes and back, and what is computed on the bytes: look-up tables, sums, products.
//!
//! Exact on every tier: each operation is rounded as it is written, products and sums are never fused, and rounding is to
//! nearest, halves to even.
//!
//! | function | of each element |
//! |---|---|
//! | range | the least and the greatest, 0 among them; both NaN where one is |
//! | quantize | `clamp(rint(x · inverse) + zero_point, lo, hi)`, a NaN counting as 0 |
//! | dequantize | `f32(q - zero_point) · scale` |
//! | lookup | `table[q]` |
//! | add | `clamp(rint(f32(a - a_zero) · a_scale + f32(b - b_zero) · b_scale) + zero_point, lo, hi)` |
//! | mul | `clamp(rint(f32((a - a_zero) · (b - b_zero)) · scale) + zero_point, lo, hi)` |
//! | blend | `clamp(rint(a · a_weight + b · b_weight), 0, 255)` of float32 `a` and `b` |

#![allow(unsafe_code, reason = "vectors are loaded and stored within slices whose lengths were compared")]

use crate::isa::Tier;
use crate::kernels::Impl;
use crate::kernels::simd::{Op, Simd, each, fold, simd_table};

#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "aarch64")]
mod neon;

/// The bytes that come out: `clamp(rint(y) + zero_point, lo, hi)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// The byte that stands for 0.
    pub zero_point: u8,
    /// The least.
    pub lo: u8,
    /// The greatest.
    pub hi: u8,
}

/// The bytes of an operand: `f32(q - zero_point) · scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operand {
    /// What a step of one is worth.
    pub scale: f32,
    /// The byte that stands for 0.
    pub zero_point: u8,
}

/// The least and the greatest of some elements and 0; both NaN where an element is.
pub type RangeFn = fn(x: &[f32]) -> [f32; 2];

/// The implementations of finding a range.
pub static RANGE: &[Impl<RangeFn>] = simd_table!(RangeFn, run_range);

/// Quantizes; `inverse` is what a float32 is multiplied by.
///
/// It panics where the lengths differ.
pub type QuantizeFn = fn(inverse: f32, bytes: Bytes, x: &[f32], y: &mut [u8]);

/// The implementations of quantization.
pub static QUANTIZE: &[Impl<QuantizeFn>] = simd_table!(QuantizeFn, run_quantize);

/// Dequantizes.
///
/// It panics where the lengths differ.
pub type DequantizeFn = fn(operand: Operand, x: &[u8], y: &mut [f32]);

/// The implementations of dequantization.
pub static DEQUANTIZE: &[Impl<DequantizeFn>] = simd_table!(DequantizeFn, run_dequantize);

/// Adds; scales are relative to the output's.
///
/// # Safety
/// `n` bytes at `a` and `b` are readable and at `y` writable; `y` is an operand or overlaps neither.
pub type AddFn =
    unsafe fn(operands: [Operand; 2], bytes: Bytes, a: *const u8, b: *const u8, y: *mut u8, n: usize);

/// The implementations of addition.
pub static ADD: &[Impl<AddFn>] = simd_table!(AddFn, run_add);

/// How two bytes are multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// The bytes of the operands that stand for 0.
    pub zero_points: [u8; 2],
    /// What a step of one operand times a step of the other is worth.
    pub scale: f32,
    /// The bytes that come out.
    pub bytes: Bytes,
}

/// Multiplies; an operand whose step is 0 is one byte for all.
///
/// # Safety
/// `n` bytes at `a` and `b`, of an operand whose step is 0 one, are readable, and `n` at `y` writable; `y` is an operand
/// whose step is 1, or overlaps neither. Steps are 0 or 1, or it panics.
pub type MulFn =
    unsafe fn(product: Product, a: *const u8, b: *const u8, steps: [usize; 2], y: *mut u8, n: usize);

/// The implementations of multiplication.
pub static MUL: &[Impl<MulFn>] = simd_table!(MulFn, run_mul);

/// Mixes two rows of float32, not NaN, into bytes.
///
/// It panics where the lengths differ.
pub type BlendFn = fn(weights: [f32; 2], a: &[f32], b: &[f32], y: &mut [u8]);

/// The implementations of mixing.
pub static BLEND: &[Impl<BlendFn>] = simd_table!(BlendFn, run_blend);

/// Looks up.
///
/// # Safety
/// `n` bytes at `x` are readable and at `y` writable; `y` is `x` or does not overlap it.
pub type LookupFn = unsafe fn(table: &[u8; 256], x: *const u8, y: *mut u8, n: usize);

/// The implementations of look-up.
pub static LOOKUP: &[Impl<LookupFn>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(lookup_each) },
];

/// Adds `a` and `b` into `y`.
///
/// # Panics
/// Where the lengths differ.
pub fn add(kernel: AddFn, operands: [Operand; 2], bytes: Bytes, a: &[u8], b: &[u8], y: &mut [u8]) {
    assert_eq!([a.len(), b.len()], [y.len(); 2]);
    // SAFETY: the slices have that length, and a mutable one overlaps no other.
    unsafe { kernel(operands, bytes, a.as_ptr(), b.as_ptr(), y.as_mut_ptr(), y.len()) }
}

/// `y[i] = table[x[i]]`.
///
/// # Panics
/// Where the lengths differ.
pub fn lookup(kernel: LookupFn, table: &[u8; 256], x: &[u8], y: &mut [u8]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: the slices have that length, and a mutable one overlaps no other.
    unsafe { kernel(table, x.as_ptr(), y.as_mut_ptr(), y.len()) }
}

/// # Safety
/// That of [`LookupFn`].
unsafe fn lookup_each(table: &[u8; 256], x: *const u8, y: *mut u8, n: usize) {
    for i in 0..n {
        // SAFETY: i < n.
        unsafe { *y.add(i) = table[usize::from(*x.add(i))] };
    }
}

/// The bounds of `rint(y)` before the zero point is added: within them, float32 arithmetic is exact.
#[inline(always)]
fn bounds<S: Simd>(s: S, bytes: Bytes) -> [S::F; 2] {
    let zero = f32::from(bytes.zero_point);
    [s.splat(f32::from(bytes.lo) - zero), s.splat(f32::from(bytes.hi) - zero)]
}

/// `clamp(rint(y) + zero_point, lo, hi)`.
#[inline(always)]
fn to_bytes<S: Simd>(s: S, y: S::F, [lo, hi]: [S::F; 2], zero_point: S::I) -> S::I {
    let y = s.select(s.is_nan(y), s.splat(0.0), s.rint(y));
    s.add_int(s.to_int(s.clamp(y, lo, hi)), zero_point)
}

/// `y[i] = clamp(rint($value) + zero_point, lo, hi)` for `n` elements, `$count` at a time from `$i` on; `$value` may read as
/// many of its operands.
macro_rules! to_each {
    ($s:ident, $bytes:expr, $n:expr, $y:expr, |$i:ident, $count:ident| $value:expr) => {{
        let (bounds, zero_point) = (bounds($s, $bytes), $s.splat_int(i32::from($bytes.zero_point)));
        each!($s, $n, |$i, $count| {
            // SAFETY: `count` elements from `i` on lie within `n`, as many as operands and result have.
            unsafe { $s.store_u8_n($y.add($i), $count, to_bytes($s, $value, bounds, zero_point)) };
        });
    }};
}

fn run_range<S: Simd>(x: &[f32]) -> [f32; 2] {
    // SAFETY: the table holds this instance only where the tier was detected.
    unsafe { S::assume() }.run(Range { x })
}

struct Range<'a> {
    x: &'a [f32],
}

impl Op for Range<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) -> [f32; 2] {
        let x = self.x;
        let (mut least, mut most) = (s.splat(0.0), s.splat(0.0));
        each!(s, x.len(), |i, count| {
            // SAFETY: `count` elements from `i` on lie within the slice; other lanes are 0.
            let value = unsafe { s.load_n(x.as_ptr().add(i), count) };
            // Of a NaN it is enough that one of them keeps it.
            (least, most) = (s.min_nan(least, value), s.max(most, value));
        });
        let least = fold!(s, least, |a, b| s.min_nan(a, b));
        let most = fold!(s, most, |a, b| s.max(a, b));
        if least.is_nan() { [f32::NAN; 2] } else { [least, most] }
    }
}

fn run_quantize<S: Simd>(inverse: f32, bytes: Bytes, x: &[f32], y: &mut [u8]) {
    assert_eq!(x.len(), y.len());
    assert!(bytes.lo <= bytes.hi);
    // SAFETY: the table holds this instance only where the tier was detected.
    unsafe { S::assume() }.run(Quantize { inverse, bytes, x, y });
}

struct Quantize<'a> {
    inverse: f32,
    bytes: Bytes,
    x: &'a [f32],
    y: &'a mut [u8],
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Quantize { inverse, bytes, x, y } = self;
        let inverse = s.splat(inverse);
        to_each!(s, bytes, x.len(), y.as_mut_ptr(), |i, count| {
            s.mul(s.load_n(x.as_ptr().add(i), count), inverse)
        });
    }
}

/// `f32(q - zero_point) · scale`; the difference is exact.
#[inline(always)]
unsafe fn operand<S: Simd>(s: S, p: *const u8, count: usize, zero_point: S::I, scale: S::F) -> S::F {
    // SAFETY: the caller has `count` bytes at `p`.
    let q = unsafe { s.load_u8_n(p, count) };
    s.mul(s.to_float(s.sub_int(q, zero_point)), scale)
}

fn run_dequantize<S: Simd>(operand: Operand, x: &[u8], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: the table holds this instance only where the tier was detected.
    unsafe { S::assume() }.run(Dequantize { operand, x, y });
}

struct Dequantize<'a> {
    operand: Operand,
    x: &'a [u8],
    y: &'a mut [f32],
}

impl Op for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Dequantize { operand: Operand { scale, zero_point }, x, y } = self;
        let (scale, zero_point) = (s.splat(scale), s.splat_int(i32::from(zero_point)));
        each!(s, x.len(), |i, count| {
            // SAFETY: `count` elements from `i` on lie within both slices.
            unsafe {
                let value = operand(s, x.as_ptr().add(i), count, zero_point, scale);
                s.store_n(y.as_mut_ptr().add(i), count, value);
            }
        });
    }
}

unsafe fn run_add<S: Simd>(
    operands: [Operand; 2],
    bytes: Bytes,
    a: *const u8,
    b: *const u8,
    y: *mut u8,
    n: usize,
) {
    assert!(bytes.lo <= bytes.hi);
    // SAFETY: the table holds this instance only where the tier was detected.
    unsafe { S::assume() }.run(Add { operands, bytes, a, b, y, n });
}

struct Add {
    operands: [Operand; 2],
    bytes: Bytes,
    a: *const u8,
    b: *const u8,
    y: *mut u8,
    n: usize,
}

impl Op for Add {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Add { operands, bytes, a, b, y, n } = self;
        let scales = operands.map(|operand| s.splat(operand.scale));
        let zeros = operands.map(|operand| s.splat_int(i32::from(operand.zero_point)));
        to_each!(s, bytes, n, y, |i, count| {
            let p = operand(s, a.add(i), count, zeros[0], scales[0]);
            s.add(p, operand(s, b.add(i), count, zeros[1], scales[1]))
        });
    }
}

unsafe fn run_mul<S: Simd>(
    product: Product,
    a: *const u8,
    b: *const u8,
    steps: [usize; 2],
    y: *mut u8,
    n: usize,
) {
    assert!(product.bytes.lo <= product.bytes.hi && steps.iter().all(|&step| step <= 1));
    if n > 0 {
        // SAFETY: the table holds this instance only where the tier was detected.
        unsafe { S::assume() }.run(Mul { product, a, b, steps, y, n });
    }
}

struct Mul {
    product: Product,
    a: *const u8,
    b: *const u8,
    steps: [usize; 2],
    y: *mut u8,
    n: usize,
}

impl Op for Mul {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Mul { product: Product { zero_points, scale, bytes }, a, b, steps, y, n } = self;
        let (one, scale) = (s.splat(1.0), s.splat(scale));
        let zeros = zero_points.map(|zero| s.splat_int(i32::from(zero)));
        // Differences, and products of two, are integers below 2^24: exact.
        // SAFETY: n > 0, so both operands have a byte.
        let stays = unsafe {
            [
                s.splat(f32::from(*a) - f32::from(zero_points[0])),
                s.splat(f32::from(*b) - f32::from(zero_points[1])),
            ]
        };
        macro_rules! looped {
            (|$i:ident, $count:ident| $p:expr, $q:expr) => {
                to_each!(s, bytes, n, y, |$i, $count| s.mul(s.mul($p, $q), scale))
            };
        }
        match steps {
            [0, 0] => looped!(|i, count| stays[0], stays[1]),
            [0, _] => looped!(|i, count| stays[0], operand(s, b.add(i), count, zeros[1], one)),
            [_, 0] => looped!(|i, count| operand(s, a.add(i), count, zeros[0], one), stays[1]),
            _ => looped!(|i, count| operand(s, a.add(i), count, zeros[0], one), {
                operand(s, b.add(i), count, zeros[1], one)
            }),
        }
    }
}

fn run_blend<S: Simd>(weights: [f32; 2], a: &[f32], b: &[f32], y: &mut [u8]) {
    assert_eq!([a.len(), b.len()], [y.len(); 2]);
    // SAFETY: the table holds this instance only where the tier was detected.
    unsafe { S::assume() }.run(Blend { weights, a, b, y });
}

struct Blend<'a> {
    weights: [f32; 2],
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [u8],
}

impl Op for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Blend { weights, a, b, y } = self;
        let weights = weights.map(|weight| s.splat(weight));
        let bytes = Bytes { zero_point: 0, lo: 0, hi: 255 };
        to_each!(s, bytes, y.len(), y.as_mut_ptr(), |i, count| {
            let p = s.mul(s.load_n(a.as_ptr().add(i), count), weights[0]);
            s.add(p, s.mul(s.load_n(b.as_ptr().add(i), count), weights[1]))
        });
    }
}

#[cfg(test)]
mod tests;
