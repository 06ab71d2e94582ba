//! Functions of one variable, float32 to float32: `y[i] = f(x[i])`.
//!
//! [`Map`] names the function, as the file of a model does. The common ones are written over SIMD lanes with the error
//! bounds of `kernels/math`; the rare ones call the standard library. NaN, infinities and the sign of zero come out as
//! torch's on x86, save that gelu of +∞ is +∞, and that a clamp at 0 may make -0 a 0.

#![allow(unsafe_code, reason = "the loop reads and writes through pointers, since y may be x")]

use crate::kernels::simd::{Op, Simd, each, simd_table};
use crate::kernels::{Impl, math};
use serde::{Deserialize, Serialize};

/// A function of one variable. In a file: an object whose `fn` is its name, with its parameters beside it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fn", rename_all = "snake_case", deny_unknown_fields, remote = "Self")]
pub enum Map {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` within `[lo, hi]`; a bound left out of the file is infinite.
    Hardtanh {
        /// Lower bound.
        #[serde(default = "negative_infinity", skip_serializing_if = "is_infinite")]
        lo: f32,
        /// Upper bound.
        #[serde(default = "infinity", skip_serializing_if = "is_infinite")]
        hi: f32,
    },
    /// `x > 0 ? x : slope·x`.
    LeakyRelu {
        /// Factor of what is negative.
        slope: f32,
    },
    /// `x · sigmoid(x)`.
    Silu,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `log(sigmoid(x))`.
    LogSigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `x · min(max(x + 3, 0), 6) / 6`.
    Hardswish,
    /// `min(max(x + 3, 0), 6) / 6`.
    Hardsigmoid,
    /// `x · (1 + erf(x / √2)) / 2`.
    Gelu,
    /// torch's `approximate="tanh"`.
    GeluTanh,
    /// `x > 0 ? x : alpha·(eˣ - 1)`.
    Elu {
        /// Minus the limit at -∞.
        alpha: f32,
    },
    /// elu scaled, with torch's constants.
    Selu,
    /// `x > 0 ? x : alpha·(e^(x/alpha) - 1)`.
    Celu {
        /// Minus the limit at -∞.
        alpha: f32,
    },
    /// `x · tanh(softplus(x))`.
    Mish,
    /// `log(1 + e^(beta·x)) / beta`, and `x` where `beta·x > threshold`.
    Softplus {
        /// Sharpness.
        beta: f32,
        /// Where it becomes linear.
        threshold: f32,
    },
    /// `x / (1 + |x|)`.
    Softsign,
    /// `|x| <= lambda ? 0 : x`.
    Hardshrink {
        /// Half the width of the gap.
        lambda: f32,
    },
    /// `x` moved towards 0 by `lambda`, at most to it.
    Softshrink {
        /// How far.
        lambda: f32,
    },
    /// `x - tanh(x)`.
    Tanhshrink,
    /// `x <= threshold ? value : x`.
    Threshold {
        /// The greatest `x` to be replaced.
        threshold: f32,
        /// What replaces it.
        value: f32,
    },
    /// `x·mul + add`, two roundings.
    Affine {
        /// Factor.
        mul: f32,
        /// Addend.
        add: f32,
    },
    /// `x^exponent`; the exponents that torch computes by multiplication or square root are computed so.
    Pow {
        /// The exponent.
        exponent: f32,
    },
    /// `eˣ`.
    Exp,
    /// `eˣ - 1`.
    Expm1,
    /// `2ˣ`.
    Exp2,
    /// Natural logarithm.
    Log,
    /// `log(1 + x)`.
    Log1p,
    /// To base 2.
    Log2,
    /// To base 10.
    Log10,
    /// Square root.
    Sqrt,
    /// `1 / √x`, two roundings.
    Rsqrt,
    /// `|x|`.
    Abs,
    /// `-x`.
    Neg,
    /// `1 / x`.
    Reciprocal,
    /// `x²`.
    Square,
    /// -1, 0 or 1; of NaN 0, as in torch.
    Sign,
    /// Towards -∞.
    Floor,
    /// Towards +∞.
    Ceil,
    /// To nearest, halves to even.
    Round,
    /// Towards 0.
    Trunc,
    /// `x - trunc(x)`.
    Frac,
    /// The error function.
    Erf,
    /// `1 - erf(x)`.
    Erfc,
    /// Of radians.
    Sin,
    /// Of radians.
    Cos,
    /// Of radians.
    Tan,
    /// In radians.
    Asin,
    /// In radians.
    Acos,
    /// In radians.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Its inverse.
    Asinh,
    /// Its inverse.
    Acosh,
    /// Its inverse.
    Atanh,
}

fn infinity() -> f32 {
    f32::INFINITY
}

fn negative_infinity() -> f32 {
    f32::NEG_INFINITY
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_infinite(x: &f32) -> bool {
    x.is_infinite()
}

impl Serialize for Map {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Map::serialize(self, serializer)
    }
}

// By hand, since serde's `deny_unknown_fields` overlooks the fields of a variant that has none of its own.
impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        use serde::de::Error;
        let fields = serde_json::Map::deserialize(deserializer)?;
        let map = Map::deserialize(serde_json::Value::Object(fields.clone())).map_err(D::Error::custom)?;
        let known = serde_json::to_value(map).map_err(D::Error::custom)?;
        match fields.keys().find(|key| known.get(key).is_none()) {
            Some(key) => Err(D::Error::custom(format!("fn {} has no parameter {key:?}", known["fn"]))),
            None => Ok(map),
        }
    }
}

impl Map {
    /// The bounds, where the function is nothing but a clamp, so that a kernel can do it as it stores.
    pub fn clamp(self) -> Option<[f32; 2]> {
        match self {
            Map::Relu => Some([0.0, f32::INFINITY]),
            Map::Relu6 => Some([0.0, 6.0]),
            Map::Hardtanh { lo, hi } => Some([lo, hi]),
            _ => None,
        }
    }

    /// The function on an integer, where torch gives an integer for one; arithmetic wraps.
    pub fn integer(self, x: i64) -> Option<i64> {
        Some(match self {
            Map::Relu => x.max(0),
            Map::Relu6 => x.clamp(0, 6),
            Map::Abs => x.wrapping_abs(),
            Map::Neg => x.wrapping_neg(),
            Map::Square => x.wrapping_mul(x),
            Map::Sign => x.signum(),
            Map::Floor | Map::Ceil | Map::Round | Map::Trunc => x,
            _ => return None,
        })
    }
}

/// A kernel of the family: `y[i] = map(x[i])` for `i < n`.
///
/// # Safety
/// `n` elements at `x` are readable and at `y` writable; `y` is `x` or does not overlap it.
pub type MapFn = unsafe fn(map: Map, x: *const f32, y: *mut f32, n: usize);

/// The implementations.
pub static TABLE: &[Impl<MapFn>] = simd_table!(MapFn, run);

/// `y[i] = map(x[i])`.
///
/// # Panics
/// Where the lengths differ.
pub fn apply(kernel: MapFn, map: Map, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: both slices have that length, and slices of which one is mutable do not overlap.
    unsafe { kernel(map, x.as_ptr(), y.as_mut_ptr(), x.len()) }
}

/// `x[i] = map(x[i])`.
pub fn apply_in_place(kernel: MapFn, map: Map, x: &mut [f32]) {
    // SAFETY: the slice has that length; y is x.
    unsafe { kernel(map, x.as_ptr(), x.as_mut_ptr(), x.len()) }
}

/// The kernel of a tier.
///
/// # Safety
/// That of [`MapFn`], and `S` was detected.
pub(crate) unsafe fn run<S: Simd>(map: Map, x: *const f32, y: *mut f32, n: usize) {
    // SAFETY: the table holds this instance only where the tier was detected.
    let s = unsafe { S::assume() };
    s.run(Call { map, x, y, n });
}

struct Call {
    map: Map,
    x: *const f32,
    y: *mut f32,
    n: usize,
}

/// torch's constants of selu.
const SELU: [f32; 2] = [1.050_701, 1.673_263_2];

impl Op for Call {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Call { map, x, y, n } = self;
        // A loop over the vectors, the expression inlined in it.
        macro_rules! lanes {
            (|$v:ident| $body:expr) => {
                each!(s, n, |i, count| {
                    // SAFETY: `count` elements from `i` on lie within `n`.
                    unsafe {
                        let $v = s.load_n(x.add(i), count);
                        s.store_n(y.add(i), count, $body);
                    }
                })
            };
        }
        macro_rules! each_element {
            ($f:expr) => {
                for i in 0..n {
                    // SAFETY: i < n.
                    unsafe { *y.add(i) = $f(*x.add(i)) };
                }
            };
        }
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        match map {
            Map::Relu => lanes!(|v| s.max(zero, v)),
            Map::Relu6 => {
                let six = s.splat(6.0);
                lanes!(|v| s.clamp(v, zero, six));
            }
            Map::Hardtanh { lo, hi } => {
                let (lo, hi) = (s.splat(lo), s.splat(hi));
                lanes!(|v| s.clamp(v, lo, hi));
            }
            Map::LeakyRelu { slope } => {
                let slope = s.splat(slope);
                lanes!(|v| s.select(s.lt(zero, v), v, s.mul(v, slope)));
            }
            Map::Silu => lanes!(|v| math::silu(s, v)),
            Map::Sigmoid => lanes!(|v| math::sigmoid(s, v)),
            Map::LogSigmoid => lanes!(|v| math::log_sigmoid(s, v)),
            Map::Tanh => lanes!(|v| math::tanh(s, v)),
            Map::Hardswish => {
                let (three, six) = (s.splat(3.0), s.splat(6.0));
                lanes!(|v| s.div(s.mul(v, s.clamp(s.add(v, three), zero, six)), six));
            }
            Map::Hardsigmoid => {
                let (three, six) = (s.splat(3.0), s.splat(6.0));
                lanes!(|v| s.div(s.clamp(s.add(v, three), zero, six), six));
            }
            Map::Gelu => lanes!(|v| math::gelu(s, v)),
            Map::GeluTanh => lanes!(|v| math::gelu_tanh(s, v)),
            Map::Elu { alpha } => {
                let alpha = s.splat(alpha);
                lanes!(|v| s.select(s.lt(zero, v), v, s.mul(alpha, math::expm1(s, v))));
            }
            Map::Selu => {
                let (scale, negative) = (s.splat(SELU[0]), s.splat(SELU[0] * SELU[1]));
                lanes!(|v| s.select(s.lt(zero, v), s.mul(scale, v), s.mul(negative, math::expm1(s, v))));
            }
            Map::Celu { alpha } => {
                let (alpha, inverse) = (s.splat(alpha), s.splat(1.0 / alpha));
                lanes!(|v| s.select(s.lt(zero, v), v, s.mul(alpha, math::expm1(s, s.mul(v, inverse)))));
            }
            Map::Mish => lanes!(|v| math::mish(s, v)),
            Map::Softplus { beta: 1.0, threshold } => {
                let threshold = s.splat(threshold);
                lanes!(|v| s.select(s.lt(threshold, v), v, math::softplus(s, v)));
            }
            Map::Softplus { beta, threshold } => {
                let (beta, threshold) = (s.splat(beta), s.splat(threshold));
                lanes!(|v| {
                    let scaled = s.mul(v, beta);
                    s.select(s.lt(threshold, scaled), v, s.div(math::softplus(s, scaled), beta))
                });
            }
            Map::Softsign => lanes!(|v| s.div(v, s.add(one, s.abs(v)))),
            Map::Hardshrink { lambda } => {
                let lambda = s.splat(lambda);
                lanes!(|v| s.select(s.le(s.abs(v), lambda), zero, v));
            }
            Map::Softshrink { lambda } => {
                let lambda = s.splat(lambda);
                // A NaN is neither within nor below, and comes through the difference.
                lanes!(|v| s.select(
                    s.le(s.abs(v), lambda),
                    zero,
                    s.select(s.lt(v, zero), s.add(v, lambda), s.sub(v, lambda))
                ));
            }
            Map::Tanhshrink => lanes!(|v| s.sub(v, math::tanh(s, v))),
            Map::Threshold { threshold, value } => {
                let (threshold, value) = (s.splat(threshold), s.splat(value));
                lanes!(|v| s.select(s.le(v, threshold), value, v));
            }
            Map::Affine { mul, add } => {
                let (mul, add) = (s.splat(mul), s.splat(add));
                lanes!(|v| s.add(s.mul(v, mul), add));
            }
            Map::Pow { exponent: 1.0 } => lanes!(|v| v),
            Map::Pow { exponent: 2.0 } | Map::Square => lanes!(|v| s.mul(v, v)),
            Map::Pow { exponent: 3.0 } => lanes!(|v| s.mul(s.mul(v, v), v)),
            Map::Pow { exponent: 0.5 } | Map::Sqrt => lanes!(|v| s.sqrt(v)),
            Map::Pow { exponent: -0.5 } | Map::Rsqrt => lanes!(|v| s.div(one, s.sqrt(v))),
            Map::Pow { exponent: -1.0 } | Map::Reciprocal => lanes!(|v| s.div(one, v)),
            Map::Pow { exponent: -2.0 } => lanes!(|v| s.div(one, s.mul(v, v))),
            Map::Pow { exponent } => each_element!(|v: f32| v.powf(exponent)),
            Map::Exp => lanes!(|v| math::exp(s, v)),
            Map::Expm1 => lanes!(|v| math::expm1(s, v)),
            Map::Log => lanes!(|v| math::log(s, v)),
            Map::Log1p => lanes!(|v| math::log1p(s, v)),
            Map::Abs => lanes!(|v| s.abs(v)),
            Map::Neg => lanes!(|v| s.neg(v)),
            Map::Sign => lanes!(|v| {
                let negative = s.select(s.lt(v, zero), s.splat(-1.0), zero);
                s.select(s.lt(zero, v), one, negative)
            }),
            Map::Floor => lanes!(|v| s.floor(v)),
            Map::Ceil => lanes!(|v| s.ceil(v)),
            Map::Round => lanes!(|v| s.rint(v)),
            Map::Trunc => lanes!(|v| s.trunc(v)),
            Map::Frac => lanes!(|v| s.sub(v, s.trunc(v))),
            Map::Erf => lanes!(|v| math::erf(s, v)),
            Map::Erfc => lanes!(|v| math::erfc(s, v)),
            Map::Exp2 => each_element!(f32::exp2),
            Map::Log2 => each_element!(f32::log2),
            Map::Log10 => each_element!(f32::log10),
            Map::Sin => each_element!(f32::sin),
            Map::Cos => each_element!(f32::cos),
            Map::Tan => each_element!(f32::tan),
            Map::Asin => each_element!(f32::asin),
            Map::Acos => each_element!(f32::acos),
            Map::Atan => each_element!(f32::atan),
            Map::Sinh => each_element!(f32::sinh),
            Map::Cosh => each_element!(f32::cosh),
            // The standard library's float32 versions of these lose digits.
            Map::Asinh => each_element!(|v: f32| f64::from(v).asinh() as f32),
            Map::Acosh => each_element!(|v: f32| f64::from(v).acosh() as f32),
            Map::Atanh => each_element!(|v: f32| f64::from(v).atanh() as f32),
        }
    }
}

#[cfg(test)]
mod tests;
