//! Functions of two variables, with broadcasting: `out[i] = f(a[i], b[i])`.
//!
//! A [`Row`] does one run of elements in which each operand either advances or stays; [`Broadcast`] cuts any pair of shapes
//! into the longest such runs. float32 rows are vectorised on every tier ([`TABLE`]); integer rows are plain loops.
//!
//! Integer arithmetic wraps, and never faults: where torch raises on a division by zero, the quotient and both
//! remainders are 0; the least integer divided by -1 is itself, as in torch. A negative power of an integer is 0,
//! save of 1 and -1, as in torch. Division proper is float32's alone: a graph casts integers first.

#![allow(unsafe_code, reason = "rows are read and written through pointers, since out may be an operand")]

use crate::kernels::simd::{MAX_LANES, Op, Simd, each, simd_table};
use crate::kernels::{Impl, map};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A function of two variables; the names are the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    /// `a + b`; of bools, or.
    Add,
    /// `a - b`.
    Sub,
    /// `a · b`; of bools, and.
    Mul,
    /// `a / b`, of float32 only.
    Div,
    /// `aᵇ`.
    Pow,
    /// The greater; NaN where either is.
    Max,
    /// The lesser; NaN where either is.
    Min,
    /// The quotient rounded down.
    FloorDiv,
    /// The remainder with the sign of `b`, as Python's `%`.
    Mod,
    /// The remainder with the sign of `a`, as C's `%`.
    Fmod,
    /// The angle of `(b, a)`, of float32 only.
    Atan2,
    /// Equal, a bool like those that follow.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Of integers and bools bitwise; of float32 both non-zero, a bool.
    And,
    /// Of integers and bools bitwise; of float32 either non-zero, a bool.
    Or,
    /// Of integers and bools bitwise; of float32 one alone non-zero, a bool.
    Xor,
}

impl Binary {
    /// Every function.
    pub const ALL: [Binary; 20] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Pow,
        Binary::Max,
        Binary::Min,
        Binary::FloorDiv,
        Binary::Mod,
        Binary::Fmod,
        Binary::Atan2,
        Binary::Eq,
        Binary::Ne,
        Binary::Lt,
        Binary::Le,
        Binary::Gt,
        Binary::Ge,
        Binary::And,
        Binary::Or,
        Binary::Xor,
    ];

    /// The element type of the result for operands of that type, or none where the function is not defined on it.
    pub fn result(self, dtype: DType) -> Option<DType> {
        use Binary::{
            Add, And, Atan2, Div, Eq, FloorDiv, Fmod, Ge, Gt, Le, Lt, Max, Min, Mod, Mul, Ne, Or, Pow, Sub,
            Xor,
        };
        match (dtype, self) {
            (DType::Float16 | DType::Int8, _) => None,
            (_, Eq | Ne | Lt | Le | Gt | Ge) | (DType::Float32, And | Or | Xor) => Some(DType::Bool),
            (DType::Float32, _) => Some(DType::Float32),
            (_, Div | Atan2) | (DType::Bool, Sub | Pow | FloorDiv | Mod | Fmod) => None,
            (dtype, Add | Sub | Mul | Pow | Max | Min | FloorDiv | Mod | Fmod | And | Or | Xor) => {
                Some(dtype)
            }
        }
    }
}

/// One run: `out[i] = f(a[i · a_step], b[i · b_step])` for `i < n`; the pointers are to elements of the row's type and of
/// [`Binary::result`] of it.
///
/// # Safety
/// The elements named are readable, or writable, and aligned; `out` is an operand whose step is 1, or overlaps neither; `f` is
/// defined on the type.
pub type Row =
    unsafe fn(f: Binary, a: *const u8, a_step: usize, b: *const u8, b_step: usize, out: *mut u8, n: usize);

/// The implementations for float32.
pub static TABLE: &[Impl<Row>] = simd_table!(Row, float_row);

/// The row for operands of that type, given the one for float32.
pub fn row(dtype: DType, float: Row) -> Option<Row> {
    match dtype {
        DType::Float32 => Some(float),
        DType::Int64 => Some(integer_row::<i64>),
        DType::Int32 => Some(integer_row::<i32>),
        DType::UInt8 => Some(integer_row::<u8>),
        DType::Bool => Some(bool_row),
        DType::Float16 | DType::Int8 => None,
    }
}

/// Two operands broadcast to a shape, taken apart into runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// Sizes of the output, of neighbouring dimensions made one wherever both operands allow it; at least one.
    shape: Vec<usize>,
    /// Elements an operand advances by per step of each of these dimensions.
    strides: [Vec<usize>; 2],
}

impl Broadcast {
    /// For a contiguous output of that shape; strides are in elements, 0 along a broadcast dimension.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn new(shape: &[usize], a_strides: &[usize], b_strides: &[usize]) -> Broadcast {
        assert_eq!([a_strides.len(), b_strides.len()], [shape.len(); 2]);
        let mut made = Broadcast { shape: Vec::new(), strides: [Vec::new(), Vec::new()] };
        for (i, &size) in shape.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let strides = [a_strides[i], b_strides[i]];
            let fits = |side: usize| made.strides[side].last() == Some(&(strides[side] * size));
            if fits(0) && fits(1) {
                *made.shape.last_mut().expect("a stride has its size") *= size;
                for (side, stride) in strides.into_iter().enumerate() {
                    *made.strides[side].last_mut().expect("just compared") = stride;
                }
            } else {
                made.shape.push(size);
                made.strides[0].push(strides[0]);
                made.strides[1].push(strides[1]);
            }
        }
        if made.shape.is_empty() {
            made = Broadcast { shape: vec![1], strides: [vec![0], vec![0]] };
        }
        made
    }

    /// Elements of the output.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the output has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements an operand must have: one more than the furthest that is read.
    fn extent(&self, side: usize) -> usize {
        if self.is_empty() {
            return 0;
        }
        1 + self
            .shape
            .iter()
            .zip(&self.strides[side])
            .map(|(size, stride)| (size - 1) * stride)
            .sum::<usize>()
    }

    /// Computes the elements `range` of the output, so that threads may share it; `size` is an operand's element's and
    /// `out_size` a result's, in bytes.
    ///
    /// # Safety
    /// Both operands have every element that the strides lead to, aligned, `out` those of `range`; `out` is an operand that is not
    /// broadcast, or overlaps neither; the row is of the operands' type, and `f` defined on it; `range` ends within
    /// [`Broadcast::len`].
    pub unsafe fn run(
        &self,
        row: Row,
        f: Binary,
        [size, out_size]: [usize; 2],
        [a, b]: [*const u8; 2],
        out: *mut u8,
        range: Range<usize>,
    ) {
        self.runs(range, |Run { at, offset, steps, n }| {
            // SAFETY: the offsets are those of element `at`, and the run stays within its dimension and the range.
            unsafe {
                let (a, b) = (a.add(offset[0] * size), b.add(offset[1] * size));
                row(f, a, steps[0], b, steps[1], out.add(at * out_size), n);
            }
        });
    }

    /// Hands on the runs that the elements `range` of the output, which end within [`Broadcast::len`], consist of.
    pub fn runs(&self, range: Range<usize>, mut each: impl FnMut(Run)) {
        let (outer, inner) = self.shape.split_at(self.shape.len() - 1);
        let inner = inner[0];
        let steps = self.steps();
        let mut at = range.start;
        while at < range.end {
            let (mut rest, column) = (at / inner, at % inner);
            let mut offset = [column * steps[0], column * steps[1]];
            for (i, size) in outer.iter().enumerate().rev() {
                let index = rest % size;
                rest /= size;
                offset[0] += index * self.strides[0][i];
                offset[1] += index * self.strides[1][i];
            }
            let n = (inner - column).min(range.end - at);
            each(Run { at, offset, steps, n });
            at += n;
        }
    }

    /// What each operand advances by per element of a run.
    fn steps(&self) -> [usize; 2] {
        [0, 1].map(|side: usize| *self.strides[side].last().expect("there is a dimension"))
    }
}

/// A run of neighbouring elements of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first, counted in the output.
    pub at: usize,
    /// The same, counted in each operand.
    pub offset: [usize; 2],
    /// What each operand advances by per element.
    pub steps: [usize; 2],
    /// How many they are.
    pub n: usize,
}

/// The strides of a contiguous operand of that shape, broadcast to `to`, by numpy's rule.
///
/// # Panics
/// Where it does not broadcast.
pub fn strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let new = to.len().checked_sub(shape.len()).expect("a broadcast does not lose dimensions");
    let mut made = vec![0; to.len()];
    let mut stride = 1;
    for (i, &size) in shape.iter().enumerate().rev() {
        assert!(size == to[new + i] || size == 1, "{shape:?} does not broadcast to {to:?}");
        made[new + i] = if size == 1 { 0 } else { stride };
        stride *= size;
    }
    made
}

/// `out = f(a, b)` over a shape; the operands as bytes of `dtype`, strides in elements, `out` contiguous.
///
/// # Panics
/// Where `f` is not defined on the type, or a slice is shorter than the strides and the shape say or not aligned to its type.
pub fn broadcast(
    float: Row,
    f: Binary,
    dtype: DType,
    shape: &[usize],
    (a, a_strides): (&[u8], &[usize]),
    (b, b_strides): (&[u8], &[usize]),
    out: &mut [u8],
) {
    let result = f.result(dtype).expect("the function is defined on the type");
    let row = row(dtype, float).expect("the function is defined on the type");
    let loops = Broadcast::new(shape, a_strides, b_strides);
    let size = dtype.size();
    assert!(loops.extent(0) * size <= a.len(), "the first operand's extent");
    assert!(loops.extent(1) * size <= b.len(), "the second operand's extent");
    assert!(loops.len() * result.size() <= out.len(), "the output's length");
    let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
    let aligned =
        a.align_offset(size) == 0 && b.align_offset(size) == 0 && out.align_offset(result.size()) == 0;
    assert!(aligned, "slices of {dtype} are aligned to it");
    // SAFETY: the extents were compared with the slices; a mutable slice overlaps no other; `row` is the type's.
    unsafe { loops.run(row, f, [size, result.size()], [a, b], out, 0..loops.len()) }
}

unsafe fn float_row<S: Simd>(
    f: Binary,
    a: *const u8,
    a_step: usize,
    b: *const u8,
    b_step: usize,
    out: *mut u8,
    n: usize,
) {
    // SAFETY: the table holds this instance only where the tier was detected.
    let s = unsafe { S::assume() };
    let (a, b) = (a.cast::<f32>(), b.cast::<f32>());
    if f == Binary::Pow && (a_step, b_step) == (1, 0) && n > 0 {
        // SAFETY: the operands have an element, as n > 0; the rest is the caller's.
        return unsafe { map::run::<S>(map::Map::Pow { exponent: *b }, a, out.cast(), n) };
    }
    s.run(FloatRow { f, a, a_step, b, b_step, out, n });
}

struct FloatRow {
    f: Binary,
    a: *const f32,
    a_step: usize,
    b: *const f32,
    b_step: usize,
    out: *mut u8,
    n: usize,
}

/// Elements `i..i + count` of an operand; `stays` is its one value where the step is 0.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn operand<S: Simd>(s: S, p: *const f32, step: usize, stays: S::F, i: usize, count: usize) -> S::F {
    match step {
        0 => stays,
        // SAFETY: the caller's.
        1 => unsafe { s.load_n(p.add(i), count) },
        _ => {
            // SAFETY: the caller's; the array has every lane.
            unsafe { s.load(strided(p.add(i * step), step, count).as_ptr()) }
        }
    }
}

/// `count` elements, `step` apart.
///
/// # Safety
/// They are readable.
#[inline(never)]
unsafe fn strided(p: *const f32, step: usize, count: usize) -> [f32; MAX_LANES] {
    let mut lanes = [0.0; MAX_LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(count) {
        // SAFETY: the caller's.
        *lane = unsafe { *p.add(i * step) };
    }
    lanes
}

impl Op for FloatRow {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let FloatRow { f, a, a_step, b, b_step, out, n } = self;
        if n == 0 {
            return;
        }
        // SAFETY: n > 0, so both operands have an element.
        let (stays_a, stays_b) = unsafe { (s.splat(*a), s.splat(*b)) };
        macro_rules! looped {
            (|$p:ident, $q:ident| $f:expr, |$i:ident, $count:ident, $y:ident| $store:expr) => {
                if (a_step, b_step) == (1, 1) {
                    each!(s, n, |$i, $count| {
                        // SAFETY: `count` elements from `i` on lie within `n`.
                        unsafe {
                            let ($p, $q) = (s.load_n(a.add($i), $count), s.load_n(b.add($i), $count));
                            let $y = $f;
                            $store;
                        }
                    })
                } else {
                    each!(s, n, |$i, $count| {
                        // SAFETY: `count` elements from `i` on lie within `n`.
                        unsafe {
                            let $p = operand(s, a, a_step, stays_a, $i, $count);
                            let $q = operand(s, b, b_step, stays_b, $i, $count);
                            let $y = $f;
                            $store;
                        }
                    })
                }
            };
        }
        macro_rules! floats {
            (|$p:ident, $q:ident| $f:expr) => {
                looped!(|$p, $q| $f, |i, count, y| s.store_n(out.cast::<f32>().add(i), count, y))
            };
        }
        macro_rules! bools {
            (|$p:ident, $q:ident| $f:expr) => {
                looped!(|$p, $q| $f, |i, count, m| s.store_mask_n(out.add(i), count, m))
            };
        }
        macro_rules! each_element {
            ($f:expr) => {
                for i in 0..n {
                    // SAFETY: i < n.
                    unsafe { *out.cast::<f32>().add(i) = $f(*a.add(i * a_step), *b.add(i * b_step)) };
                }
            };
        }
        let zero = s.splat(0.0);
        match f {
            Binary::Add => floats!(|p, q| s.add(p, q)),
            Binary::Sub => floats!(|p, q| s.sub(p, q)),
            Binary::Mul => floats!(|p, q| s.mul(p, q)),
            Binary::Div => floats!(|p, q| s.div(p, q)),
            Binary::Max => floats!(|p, q| s.max_nan(p, q)),
            Binary::Min => floats!(|p, q| s.min_nan(p, q)),
            Binary::Pow => each_element!(f32::powf),
            Binary::FloorDiv => each_element!(floor_div),
            Binary::Mod => each_element!(modulo),
            Binary::Fmod => each_element!(|p: f32, q: f32| p % q),
            Binary::Atan2 => each_element!(f32::atan2),
            Binary::Eq => bools!(|p, q| s.eq(p, q)),
            Binary::Ne => bools!(|p, q| s.not(s.eq(p, q))),
            Binary::Lt => bools!(|p, q| s.lt(p, q)),
            Binary::Le => bools!(|p, q| s.le(p, q)),
            Binary::Gt => bools!(|p, q| s.lt(q, p)),
            Binary::Ge => bools!(|p, q| s.le(q, p)),
            Binary::And => bools!(|p, q| s.not(s.or(s.eq(p, zero), s.eq(q, zero)))),
            Binary::Or => bools!(|p, q| s.not(s.and(s.eq(p, zero), s.eq(q, zero)))),
            Binary::Xor => bools!(|p, q| {
                let (p, q) = (s.eq(p, zero), s.eq(q, zero));
                s.and(s.or(p, q), s.not(s.and(p, q)))
            }),
        }
    }
}

/// torch's `floor_divide`: the quotient of what the remainder leaves, so that it agrees with [`modulo`].
fn floor_div(a: f32, b: f32) -> f32 {
    if b == 0.0 {
        return a / b;
    }
    let remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder != 0.0 && (b < 0.0) != (remainder < 0.0) {
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return 0f32.copysign(a / b);
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

/// torch's `remainder`.
fn modulo(a: f32, b: f32) -> f32 {
    let remainder = a % b;
    if remainder != 0.0 && (b < 0.0) != (remainder < 0.0) { remainder + b } else { remainder }
}

/// An integer type, by way of int64: whatever wraps there wraps to the same bits in the narrower type.
trait Integer: Copy {
    fn wide(self) -> i64;
    fn narrow(x: i64) -> Self;
}

macro_rules! integer {
    ($($type:ty),*) => { $(
        impl Integer for $type {
            #[inline(always)]
            #[allow(clippy::cast_lossless, reason = "int64 is among the types")]
            fn wide(self) -> i64 {
                self as i64
            }
            #[inline(always)]
            fn narrow(x: i64) -> $type {
                x as $type
            }
        }
    )* };
}
integer!(i64, i32, u8);

unsafe fn integer_row<T: Integer>(
    f: Binary,
    a: *const u8,
    a_step: usize,
    b: *const u8,
    b_step: usize,
    out: *mut u8,
    n: usize,
) {
    let (a, b) = (a.cast::<T>(), b.cast::<T>());
    macro_rules! looped {
        ($out:ty, $f:expr) => {
            for i in 0..n {
                // SAFETY: i < n.
                unsafe {
                    let (p, q) = ((*a.add(i * a_step)).wide(), (*b.add(i * b_step)).wide());
                    *out.cast::<$out>().add(i) = $f(p, q);
                }
            }
        };
    }
    macro_rules! integers {
        ($f:expr) => {
            looped!(T, |p, q| T::narrow($f(p, q)))
        };
    }
    macro_rules! bools {
        ($f:expr) => {
            looped!(u8, |p: i64, q: i64| u8::from($f(&p, &q)))
        };
    }
    match f {
        Binary::Add => integers!(i64::wrapping_add),
        Binary::Sub => integers!(i64::wrapping_sub),
        Binary::Mul => integers!(i64::wrapping_mul),
        Binary::Pow => integers!(integer_pow),
        Binary::Max => integers!(i64::max),
        Binary::Min => integers!(i64::min),
        Binary::FloorDiv => integers!(|p: i64, q: i64| {
            if q == 0 {
                0
            } else {
                p.wrapping_div(q) - i64::from(p.wrapping_rem(q) != 0 && (p < 0) != (q < 0))
            }
        }),
        Binary::Mod => integers!(|p: i64, q: i64| {
            let remainder = if q == 0 { 0 } else { p.wrapping_rem(q) };
            if remainder != 0 && (p < 0) != (q < 0) { remainder + q } else { remainder }
        }),
        Binary::Fmod => integers!(|p: i64, q: i64| if q == 0 { 0 } else { p.wrapping_rem(q) }),
        Binary::And => integers!(|p, q| p & q),
        Binary::Or => integers!(|p, q| p | q),
        Binary::Xor => integers!(|p, q| p ^ q),
        Binary::Eq => bools!(i64::eq),
        Binary::Ne => bools!(i64::ne),
        Binary::Lt => bools!(i64::lt),
        Binary::Le => bools!(i64::le),
        Binary::Gt => bools!(i64::gt),
        Binary::Ge => bools!(i64::ge),
        Binary::Div | Binary::Atan2 => unreachable!("Binary::result has no type for {f:?} of integers"),
    }
}

fn integer_pow(base: i64, exponent: i64) -> i64 {
    match (base, exponent) {
        (1, _) => 1,
        (-1, _) => {
            if exponent % 2 == 0 {
                1
            } else {
                -1
            }
        }
        (_, ..0) => 0,
        _ => {
            // Squaring, since an exponent of int64 does not fit `wrapping_pow`.
            let (mut power, mut square, mut rest) = (1i64, base, exponent);
            while rest > 0 {
                if rest & 1 == 1 {
                    power = power.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                rest >>= 1;
            }
            power
        }
    }
}

/// Bools are bytes 0 and 1; on these, sums and products are the logical functions.
unsafe fn bool_row(
    f: Binary,
    a: *const u8,
    a_step: usize,
    b: *const u8,
    b_step: usize,
    out: *mut u8,
    n: usize,
) {
    let f = match f {
        Binary::Add => Binary::Or,
        Binary::Mul => Binary::And,
        f => f,
    };
    // SAFETY: the caller's.
    unsafe { integer_row::<u8>(f, a, a_step, b, b_step, out, n) }
}

#[cfg(test)]
mod tests;
