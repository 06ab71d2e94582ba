//! exp, log, tanh, sigmoid, erf, erfc and what is made of them, over [`Simd`] lanes.
//!
//! Each function says its greatest error in units in the last place (ULP) of the true result, of any float32 input; the
//! tests hold every tier to it. NaN gives NaN, infinities give the limit, denormals are computed, not flushed, unless said
//! otherwise. The polynomials are minimax fits made by `fit.py` beside this file.

use crate::kernels::simd::Simd;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, SQRT_2};

/// ln 2 in two parts. The first has 15 bits, so that its product with an exponent is exact without fused arithmetic too.
const LN2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

/// `eʳ = 1 + (r + r²·P(r))`, `|r| ≤ ln 2 / 2`; error 0.23 ULP of `eʳ - 1`.
const EXP: [f32; 5] = [0.001_387_028_8, 0.008_366_254, 0.041_667_44, 0.166_665_46, 0.499_999_97];

/// `log(1 + f) = f - f²/2 + f³·P(f)`, `1 + f` in `[√½, √2]`; error 0.02 ULP of `log(1 + f)`.
const LOG: [f32; 9] = [
    0.067_509_56,
    -0.116_714_49,
    0.118_835_68,
    -0.124_060_32,
    0.142_203_27,
    -0.166_679_96,
    0.200_020_73,
    -0.250_000_1,
    0.333_333_13,
];

/// Where the two forms of erf meet.
const ERF_EDGE: f32 = 0.921_875;
/// `erf(x) = x + x·P(x²)` below [`ERF_EDGE`]; error 0.27 ULP.
const ERF_NEAR: [f32; 6] =
    [-0.000_599_450_5, 0.004_994_038, -0.026_767_349, 0.112_818_435, -0.376_124_98, 0.128_379_15];
/// `erf(x) = 1 - e^-(x + x·P(x))` from there to 4; error 0.02 ULP.
const ERF_FAR: [f32; 7] = [
    1.159_313_6e-5,
    -0.000_326_361_57,
    0.003_656_649,
    -0.023_791_46,
    0.106_270_26,
    0.635_131_6,
    0.128_653_23,
];
/// From here on erf is 1 in float32, erfc below 2⁻²⁵.
const ERF_ONE: f32 = 4.0;
/// `erfc(x) = e^-x² · t·P(t)`, `t = 3 / (3 + x)`, from 0 to [`ERFC_ZERO`]; error 0.05 ULP.
const ERFC: [f32; 10] = [
    0.055_629_052,
    -0.291_663_44,
    0.534_576_2,
    -0.439_628_4,
    0.402_214_5,
    -0.001_224_586_4,
    0.191_905_86,
    0.171_474_13,
    0.188_680_71,
    0.188_036,
];
/// From here on erfc is 0 in float32.
const ERFC_ZERO: f32 = 10.1;

/// `x = n·ln 2 + r`: gives `n` and `eʳ - 1`.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let n = s.rint(s.mul(x, s.splat(LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(LN2[0]), x);
    let r = s.neg_mul_add(n, s.splat(LN2[1]), r);
    (n, s.mul_add(s.mul(r, r), s.polynomial(r, EXP), r))
}

/// 2ⁿ of an integral `n` in `[-126, 127]`.
#[inline(always)]
fn pow2<S: Simd>(s: S, n: S::F) -> S::F {
    s.as_float(s.shl(s.add_int(s.to_int(n), s.splat_int(127)), 23))
}

/// eˣ within 1.5 ULP.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // Outside, the result is 0 or infinite.
    let x = s.clamp(x, s.splat(-104.0), s.splat(89.0));
    let (n, e) = reduce(s, x);
    s.scale(s.add(s.splat(1.0), e), n)
}

/// eˣ of `x <= 0` within 1.5 ULP, and 0 where that is below 2⁻¹²⁶: a denormal result costs many processors a hundred cycles,
/// and beside 1, to which these are compared, it is nothing.
#[inline(always)]
pub(crate) fn exp_negative<S: Simd>(s: S, x: S::F) -> S::F {
    let least = s.splat(-87.336_5);
    let (n, e) = reduce(s, s.max(least, x));
    let y = s.mul(s.add(s.splat(1.0), e), pow2(s, n));
    s.select(s.lt(x, least), s.splat(0.0), y)
}

/// eˣ - 1 within 2.5 ULP.
#[inline(always)]
pub(crate) fn expm1<S: Simd>(s: S, x: S::F) -> S::F {
    // Below, the result is -1. A zero keeps its sign: it takes the sum's, not the product's.
    let bounded = s.clamp(x, s.splat(-18.0), s.splat(89.0));
    let (n, e) = reduce(s, bounded);
    let inverse = pow2(s, s.max(s.splat(-126.0), s.neg(n)));
    let y = s.scale(s.add(e, s.sub(s.splat(1.0), inverse)), n);
    s.select(s.eq(x, s.splat(0.0)), x, y)
}

/// `log(x / 2ᵏ)` of positive normal `x`.
#[inline(always)]
fn log_normal<S: Simd>(s: S, x: S::F, k: S::F) -> S::F {
    // Taking away the bits of √½ makes the exponent step there, not at 1.
    let bits = s.bits(x);
    let exponent = s.sar(s.sub_int(bits, s.splat_int(0x3F35_04F3)), 23);
    let f = s.sub(s.as_float(s.sub_int(bits, s.shl(exponent, 23))), s.splat(1.0));
    let e = s.sub(s.to_float(exponent), k);

    let f2 = s.mul(f, f);
    let tail = s.mul(s.mul(f, f2), s.polynomial(f, LOG));
    let tail = s.mul_add(e, s.splat(LN2[1]), tail);
    let tail = s.neg_mul_add(s.splat(0.5), f2, tail);
    s.mul_add(e, s.splat(LN2[0]), s.add(f, tail))
}

/// The natural logarithm within 1.5 ULP; NaN of what is negative.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::F) -> S::F {
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let y = log_normal(s, scaled, s.select(tiny, s.splat(23.0), s.splat(0.0)));

    let y = s.select(s.lt(x, s.splat(f32::INFINITY)), y, x);
    let y = s.select(s.lt(x, s.splat(0.0)), s.splat(f32::NAN), y);
    s.select(s.eq(x, s.splat(0.0)), s.splat(f32::NEG_INFINITY), y)
}

/// log(1 + x) within 2.5 ULP.
#[inline(always)]
pub(crate) fn log1p<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let u = s.add(one, x);
    // What rounding took from `u`, made good to first order. It is NaN or 0 where `u` is 0 or infinite.
    let lost = s.sub(x, s.sub(u, one));
    let some = s.lt(s.splat(0.0), s.abs(lost));
    let y = s.add(log(s, u), s.select(some, s.div(lost, u), s.splat(0.0)));
    s.select(s.eq(u, one), x, y)
}

/// log(1 + x) of `x` in `[0, 1]`, NaN of NaN, within 2.5 ULP.
#[inline(always)]
fn log1p_unit<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let u = s.add(one, x);
    // What rounding took from `u`, over `u`; for that, 1/u is near enough to the chord of its ends, 3/2 - u/2.
    let lost = s.sub(x, s.sub(u, one));
    let inverse = s.neg_mul_add(s.splat(0.5), u, s.splat(1.5));
    s.mul_add(lost, inverse, log_normal(s, u, s.splat(0.0)))
}

/// tanh within 4 ULP.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // q / (q + 2), q = e^(2|x|) - 1; from 10 on that is 1.
    let t = s.min(s.splat(10.0), s.abs(x));
    let (n, e) = reduce(s, s.add(t, t));
    let q = s.mul(s.add(e, s.sub(s.splat(1.0), pow2(s, s.neg(n)))), pow2(s, n));
    s.with_sign(s.abs(s.div(q, s.add(q, s.splat(2.0)))), x)
}

/// e^-|x|, and the numerator of `sigmoid = numerator / (1 + e^-|x|)`.
#[inline(always)]
fn logistic<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let e = exp_negative(s, s.neg(s.abs(x)));
    (e, s.select(s.lt(x, s.splat(0.0)), e, s.splat(1.0)))
}

/// `1 / (1 + e⁻ˣ)` within 3 ULP or 2⁻¹²⁶.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let (e, numerator) = logistic(s, x);
    s.div(numerator, s.add(s.splat(1.0), e))
}

/// `x · sigmoid(x)` within 4 ULP or 2⁻¹¹⁹; NaN of -∞, as in torch.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let (e, numerator) = logistic(s, x);
    s.div(s.mul(x, numerator), s.add(s.splat(1.0), e))
}

/// `log(1 + eˣ)` within 4 ULP or 2⁻¹²⁶.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp_negative(s, s.neg(s.abs(x)));
    s.add(s.max(s.splat(0.0), x), log1p_unit(s, e))
}

/// `-softplus(-x)` within 4 ULP or 2⁻¹²⁶.
#[inline(always)]
pub(crate) fn log_sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp_negative(s, s.neg(s.abs(x)));
    s.sub(s.min(s.splat(0.0), x), log1p_unit(s, e))
}

/// `x · tanh(log(1 + eˣ))` within 6 ULP or 1e-42; NaN of -∞, as in torch.
#[inline(always)]
pub(crate) fn mish<S: Simd>(s: S, x: S::F) -> S::F {
    // tanh(log(1 + e)) = n / (n + 2), n = e·(e + 2); from 20 on that is 1.
    let e = exp(s, s.min(s.splat(20.0), x));
    let two = s.splat(2.0);
    let n = s.mul(e, s.add(e, two));
    s.mul(x, s.div(n, s.add(n, two)))
}

/// The parts of erf: whether `|x|` is at least [`ERF_EDGE`] (not where NaN), erf below it, `1 - |erf|` from it on.
#[inline(always)]
fn erf_parts<S: Simd>(s: S, x: S::F) -> (S::M, S::F, S::F) {
    let t = s.abs(x);
    let near = s.mul_add(s.polynomial(s.mul(x, x), ERF_NEAR), x, x);
    let power = s.mul_add(s.polynomial(t, ERF_FAR), t, t);
    let complement = s.select(s.lt(t, s.splat(ERF_ONE)), exp_negative(s, s.neg(power)), s.splat(0.0));
    (s.le(s.splat(ERF_EDGE), t), near, complement)
}

/// erf within 2 ULP.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let (far, near, complement) = erf_parts(s, x);
    s.select(far, s.with_sign(s.sub(s.splat(1.0), complement), x), near)
}

/// `1 - erf(x)` within 6 ULP.
#[inline(always)]
pub(crate) fn erfc<S: Simd>(s: S, x: S::F) -> S::F {
    let t = s.min(s.splat(ERFC_ZERO), s.abs(x));
    // x² = high² + (x - high)·(x + high); of high, 12 bits are left (Dekker, 1971), whose square is exact.
    let spread = s.mul(t, s.splat(4097.0));
    let high = s.sub(spread, s.sub(spread, t));
    let low = s.mul(s.sub(t, high), s.add(t, high));
    let power = s.mul(exp(s, s.neg(s.mul(high, high))), exp(s, s.neg(low)));
    let u = s.div(s.splat(3.0), s.add(s.splat(3.0), t));
    let y = s.mul(power, s.mul(u, s.polynomial(u, ERFC)));
    s.select(s.lt(x, s.splat(0.0)), s.sub(s.splat(2.0), y), y)
}

/// `x · (1 + erf(x / √2)) / 2` within 4 ULP or 1e-7; NaN of -∞, as in torch.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let (far, near, complement) = erf_parts(s, s.mul(x, s.splat(FRAC_1_SQRT_2)));
    // 1 + erf of what is far below 0 is the complement itself: no cancellation.
    let negative = s.lt(x, s.splat(0.0));
    let far_sum = s.select(negative, complement, s.sub(s.splat(2.0), complement));
    s.mul(s.mul(s.splat(0.5), x), s.select(far, far_sum, s.add(one, near)))
}

/// `x · (1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2` within 4 ULP or 1e-7; NaN of -∞, as in torch.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // (1 + tanh(u)) / 2 = sigmoid(2u).
    const SLOPE: f32 = FRAC_2_SQRT_PI * SQRT_2;
    let cubic = s.mul_add(s.mul(s.mul(x, x), s.splat(0.044_715)), x, x);
    let (e, numerator) = logistic(s, s.mul(s.splat(SLOPE), cubic));
    s.div(s.mul(x, numerator), s.add(s.splat(1.0), e))
}
