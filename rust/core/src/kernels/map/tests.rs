//! Every tier against float64, over all exponents; the values that matter singly against torch's.

use super::{Map, TABLE, apply, apply_in_place};
use crate::testing::{Aligned, Rng, for_each_impl};
use std::f32::consts;

/// erfc in float64: Maclaurin's series of erf, or Laplace's continued fraction.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let tail = (1..=120).rev().fold(0.0, |tail, n| f64::from(n) / 2.0 / (x + tail));
    (-x * x).exp() / (x + tail) * std::f64::consts::FRAC_2_SQRT_PI / 2.0
}

fn erf(x: f64) -> f64 {
    // The difference would lose what is small.
    if x.abs() < 0.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..30 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    1.0 - erfc(x)
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

/// The definition in float64, parameters as float32 has them.
fn oracle(map: Map, x: f64) -> f64 {
    let wide = f64::from;
    match map {
        Map::Relu => x.max(0.0),
        Map::Relu6 => x.clamp(0.0, 6.0),
        Map::Hardtanh { lo, hi } => x.clamp(wide(lo), wide(hi)),
        Map::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                x * wide(slope)
            }
        }
        Map::Silu => x * sigmoid(x),
        Map::Sigmoid => sigmoid(x),
        Map::LogSigmoid => -softplus(-x),
        Map::Tanh => x.tanh(),
        // Six times x overflows before the division, as in torch.
        Map::Hardswish => f64::from((x * (x + 3.0).clamp(0.0, 6.0)) as f32) / 6.0,
        Map::Hardsigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Map::Gelu => x * erfc(-x / std::f64::consts::SQRT_2) / 2.0,
        Map::GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)),
        Map::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                wide(alpha) * x.exp_m1()
            }
        }
        Map::Selu => {
            let (scale, alpha) = (1.050_700_987_355_480_5, 1.673_263_242_354_377_2);
            scale * if x > 0.0 { x } else { alpha * x.exp_m1() }
        }
        Map::Celu { alpha } => {
            if x > 0.0 {
                x
            } else {
                wide(alpha) * (x / wide(alpha)).exp_m1()
            }
        }
        Map::Mish => x * softplus(x).tanh(),
        Map::Softplus { beta, threshold } => {
            let scaled = x * wide(beta);
            if scaled > wide(threshold) { x } else { softplus(scaled) / wide(beta) }
        }
        Map::Softsign => x / (1.0 + x.abs()),
        Map::Hardshrink { lambda } => {
            if x.abs() <= wide(lambda) {
                0.0
            } else {
                x
            }
        }
        Map::Softshrink { lambda } => x.signum() * (x.abs() - wide(lambda)).max(0.0),
        Map::Tanhshrink => x - x.tanh(),
        Map::Threshold { threshold, value } => {
            if x <= wide(threshold) {
                wide(value)
            } else {
                x
            }
        }
        Map::Affine { mul, add } => x * wide(mul) + wide(add),
        Map::Exp => x.exp(),
        Map::Expm1 => x.exp_m1(),
        Map::Exp2 => x.exp2(),
        Map::Log => x.ln(),
        Map::Log1p => x.ln_1p(),
        Map::Log2 => x.log2(),
        Map::Log10 => x.log10(),
        Map::Sqrt => x.sqrt(),
        Map::Rsqrt | Map::Pow { exponent: -0.5 } => 1.0 / x.sqrt(),
        Map::Pow { exponent } => x.powf(wide(exponent)),
        Map::Abs => x.abs(),
        Map::Neg => -x,
        Map::Reciprocal => 1.0 / x,
        Map::Square => x * x,
        Map::Sign => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Map::Floor => x.floor(),
        Map::Ceil => x.ceil(),
        Map::Round => x.round_ties_even(),
        Map::Trunc => x.trunc(),
        Map::Frac => x.fract(),
        Map::Erf => erf(x),
        Map::Erfc => erfc(x),
        Map::Sin => x.sin(),
        Map::Cos => x.cos(),
        Map::Tan => x.tan(),
        Map::Asin => x.asin(),
        Map::Acos => x.acos(),
        Map::Atan => x.atan(),
        Map::Sinh => x.sinh(),
        Map::Cosh => x.cosh(),
        Map::Asinh => x.asinh(),
        Map::Acosh => x.acosh(),
        Map::Atanh => x.atanh(),
    }
}

/// Every function, with the ULP it may be wrong by and an absolute error that is allowed instead.
const BOUNDS: &[(Map, f64, f64)] = &[
    (Map::Exp, 1.5, 0.0),
    (Map::Expm1, 2.5, 0.0),
    (Map::Log, 1.5, 0.0),
    (Map::Log1p, 2.5, 0.0),
    (Map::Tanh, 4.0, 0.0),
    (Map::Sigmoid, 3.0, 1.18e-38),
    (Map::Silu, 4.0, 1.1e-36),
    (Map::LogSigmoid, 4.0, 1.18e-38),
    (Map::Softplus { beta: 1.0, threshold: 20.0 }, 4.0, 3e-9),
    (Map::Softplus { beta: 2.5, threshold: 11.0 }, 5.0, 1e-5),
    (Map::Mish, 6.0, 1e-42),
    (Map::Erf, 2.0, 0.0),
    (Map::Erfc, 6.0, 0.0),
    (Map::Gelu, 4.0, 1e-7),
    (Map::GeluTanh, 4.0, 1e-7),
    (Map::Elu { alpha: 0.7 }, 4.0, 0.0),
    (Map::Selu, 4.0, 0.0),
    (Map::Celu { alpha: 1.3 }, 5.0, 0.0),
    (Map::Tanhshrink, 0.5, 5e-7),
    (Map::Relu, 0.0, 0.0),
    (Map::Relu6, 0.0, 0.0),
    (Map::Hardtanh { lo: -0.5, hi: 2.0 }, 0.0, 0.0),
    (Map::LeakyRelu { slope: 0.01 }, 0.5, 0.0),
    (Map::Hardswish, 2.5, 1e-6),
    (Map::Hardsigmoid, 2.0, 1e-6),
    (Map::Softsign, 1.5, 0.0),
    (Map::Hardshrink { lambda: 0.5 }, 0.0, 0.0),
    (Map::Softshrink { lambda: 0.5 }, 0.5, 0.0),
    (Map::Threshold { threshold: 0.1, value: 20.0 }, 0.0, 0.0),
    (Map::Affine { mul: 0.7, add: 0.3 }, 2.0, 1e-6),
    (Map::Pow { exponent: 1.0 }, 0.0, 0.0),
    (Map::Pow { exponent: 2.0 }, 0.5, 0.0),
    (Map::Pow { exponent: 3.0 }, 1.5, 1e-44),
    (Map::Pow { exponent: 0.5 }, 0.5, 0.0),
    (Map::Pow { exponent: -0.5 }, 1.5, 0.0),
    (Map::Pow { exponent: -1.0 }, 0.5, 0.0),
    (Map::Pow { exponent: -2.0 }, 1.5, f64::INFINITY),
    (Map::Pow { exponent: 2.3 }, 1.5, 0.0),
    (Map::Exp2, 1.5, 0.0),
    (Map::Log2, 1.5, 0.0),
    (Map::Log10, 2.0, 0.0),
    (Map::Sqrt, 0.5, 0.0),
    (Map::Rsqrt, 1.5, 0.0),
    (Map::Abs, 0.0, 0.0),
    (Map::Neg, 0.0, 0.0),
    (Map::Reciprocal, 0.5, 0.0),
    (Map::Square, 0.5, 0.0),
    (Map::Sign, 0.0, 0.0),
    (Map::Floor, 0.0, 0.0),
    (Map::Ceil, 0.0, 0.0),
    (Map::Round, 0.0, 0.0),
    (Map::Trunc, 0.0, 0.0),
    (Map::Frac, 0.0, 0.0),
    (Map::Sin, 1.5, 0.0),
    (Map::Cos, 1.5, 0.0),
    (Map::Tan, 1.5, 0.0),
    (Map::Asin, 1.5, 0.0),
    (Map::Acos, 1.5, 0.0),
    (Map::Atan, 1.5, 0.0),
    (Map::Sinh, 2.5, 0.0),
    (Map::Cosh, 2.5, 0.0),
    (Map::Asinh, 0.6, 0.0),
    (Map::Acosh, 0.6, 0.0),
    (Map::Atanh, 0.6, 0.0),
];

/// The error in units in the last place of the float32 next to `truth`, which may be beyond float32.
fn ulps(y: f32, truth: f64) -> f64 {
    let (rounded, wide) = (truth as f32, f64::from(y));
    if y.to_bits() == rounded.to_bits() || (y.is_nan() && truth.is_nan()) || (y == rounded && y == 0.0) {
        return if rounded.is_finite() { (wide - truth).abs() / unit(truth) } else { 0.0 };
    }
    if y.is_nan() || truth.is_nan() || truth.is_infinite() {
        return f64::INFINITY;
    }
    // An infinity stands for 2¹²⁸.
    let wide = if y.is_infinite() { 2f64.powi(128).copysign(wide) } else { wide };
    (wide - truth).abs() / unit(truth)
}

fn unit(truth: f64) -> f64 {
    let exponent = ((truth.abs().to_bits() >> 52) as i32 - 1023).clamp(-126, 127);
    2f64.powi(exponent - 23)
}

/// Floats of all exponents and both signs, and a denser set where functions bend.
fn sweep() -> Vec<f32> {
    // A prime step hits every exponent with ever other fractions.
    let all = (0..=u32::MAX)
        .step_by(if cfg!(target_arch = "x86_64") { 40_009 } else { 400_009 })
        .map(f32::from_bits);
    let bends = (-24_000..24_000).map(|i| i as f32 / 1000.0 + 1e-5);
    let singles = [
        0.0,
        1.0,
        0.5,
        6.0,
        3.0,
        87.3,
        87.33,
        87.336,
        87.337,
        88.7,
        88.8,
        103.9,
        104.0,
        1e-45,
        f32::MIN_POSITIVE,
        f32::MAX,
        0.921_875,
        4.0,
    ];
    let both = singles.into_iter().flat_map(|x: f32| [x, -x]);
    all.filter(|x| !x.is_nan()).chain(bends).chain(both).collect()
}

/// `GOSSAMER_SHOW_ERRORS=1` with `--nocapture` prints the greatest error of each.
#[test]
fn every_function_keeps_its_bound_on_every_tier() {
    let x = sweep();
    let mut failures = Vec::new();
    for_each_impl(TABLE, |tier, kernel| {
        let mut y = vec![0.0; x.len()];
        for &(map, bound, absolute) in BOUNDS {
            apply(kernel, map, &x, &mut y);
            let (mut worst, mut at) = (0.0, 0);
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                let truth = oracle(map, f64::from(x));
                let error = ulps(y, truth);
                let negligible = (f64::from(y) - truth).abs() <= absolute;
                if error > worst && !negligible && !x.is_infinite() {
                    (worst, at) = (error, i);
                }
            }
            if worst > bound + 1e-9 {
                let (x, y) = (x[at], y[at]);
                failures.push(format!("{tier} {map:?}({x:e}) = {y:e}, wrong by {worst:.3} ulp"));
            } else if std::env::var("GOSSAMER_SHOW_ERRORS").is_ok() {
                eprintln!("{tier} {map:?}: {worst:.3} ulp at {:e}", x[at]);
            }
        }
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What torch gives at -∞, -0, 0, ∞ and NaN.
#[rustfmt::skip]
const SINGULAR: &[(Map, [f32; 5])] = {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    const LN_2: f32 = consts::LN_2;
    &[
        (Map::Relu, [0.0, -0.0, 0.0, INF, NAN]),
        (Map::Relu6, [0.0, -0.0, 0.0, 6.0, NAN]),
        (Map::Hardtanh { lo: -1.0, hi: 1.0 }, [-1.0, -0.0, 0.0, 1.0, NAN]),
        (Map::LeakyRelu { slope: 0.01 }, [-INF, -0.0, 0.0, INF, NAN]),
        (Map::Silu, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Sigmoid, [0.0, 0.5, 0.5, 1.0, NAN]),
        (Map::LogSigmoid, [-INF, -LN_2, -LN_2, 0.0, NAN]),
        (Map::Tanh, [-1.0, -0.0, 0.0, 1.0, NAN]),
        (Map::Hardswish, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Hardsigmoid, [0.0, 0.5, 0.5, 1.0, NAN]),
        (Map::Gelu, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::GeluTanh, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Elu { alpha: 1.0 }, [-1.0, -0.0, 0.0, INF, NAN]),
        (Map::Selu, [-1.758_099_3, -0.0, 0.0, INF, NAN]),
        (Map::Celu { alpha: 1.0 }, [-1.0, -0.0, 0.0, INF, NAN]),
        (Map::Mish, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Softplus { beta: 1.0, threshold: 20.0 }, [0.0, LN_2, LN_2, INF, NAN]),
        (Map::Softsign, [NAN, -0.0, 0.0, NAN, NAN]),
        (Map::Hardshrink { lambda: 0.5 }, [-INF, 0.0, 0.0, INF, NAN]),
        (Map::Softshrink { lambda: 0.5 }, [-INF, 0.0, 0.0, INF, NAN]),
        (Map::Tanhshrink, [-INF, 0.0, 0.0, INF, NAN]),
        (Map::Threshold { threshold: 0.1, value: 20.0 }, [20.0, 20.0, 20.0, INF, NAN]),
        (Map::Pow { exponent: 3.0 }, [-INF, -0.0, 0.0, INF, NAN]),
        (Map::Pow { exponent: -0.5 }, [NAN, -INF, INF, 0.0, NAN]),
        (Map::Pow { exponent: 0.5 }, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Exp, [0.0, 1.0, 1.0, INF, NAN]),
        (Map::Expm1, [-1.0, -0.0, 0.0, INF, NAN]),
        (Map::Log, [NAN, -INF, -INF, INF, NAN]),
        (Map::Log1p, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Log2, [NAN, -INF, -INF, INF, NAN]),
        (Map::Sqrt, [NAN, -0.0, 0.0, INF, NAN]),
        (Map::Rsqrt, [NAN, -INF, INF, 0.0, NAN]),
        (Map::Abs, [INF, 0.0, 0.0, INF, NAN]),
        (Map::Neg, [INF, 0.0, -0.0, -INF, NAN]),
        (Map::Reciprocal, [-0.0, -INF, INF, 0.0, NAN]),
        (Map::Square, [INF, 0.0, 0.0, INF, NAN]),
        (Map::Erf, [-1.0, -0.0, 0.0, 1.0, NAN]),
        (Map::Erfc, [2.0, 1.0, 1.0, 0.0, NAN]),
        (Map::Floor, [-INF, -0.0, 0.0, INF, NAN]),
        (Map::Ceil, [-INF, -0.0, 0.0, INF, NAN]),
        (Map::Round, [-INF, -0.0, 0.0, INF, NAN]),
        (Map::Trunc, [-INF, -0.0, 0.0, INF, NAN]),
        (Map::Sign, [-1.0, 0.0, 0.0, 1.0, 0.0]),
    ]
};

#[test]
fn singular_values_are_torchs() {
    let x = [f32::NEG_INFINITY, -0.0, 0.0, f32::INFINITY, f32::NAN];
    for_each_impl(TABLE, |tier, kernel| {
        for &(map, expected) in SINGULAR {
            // Once as a whole vector, once as a tail.
            for repeat in [1, 16] {
                let x: Vec<f32> = x.iter().flat_map(|&x| std::iter::repeat_n(x, repeat)).collect();
                let mut y = vec![0.0; x.len()];
                apply(kernel, map, &x, &mut y);
                for (i, &y) in y.iter().enumerate() {
                    let expected = expected[i / repeat];
                    // Of two zeros, processors differ in which they call the greater.
                    let zeros = map.clamp().is_some() && y == 0.0 && expected == 0.0;
                    let same =
                        zeros || y.to_bits() == expected.to_bits() || (y.is_nan() && expected.is_nan());
                    assert!(same, "{tier} {map:?} of {}: {y}, torch {expected}", x[i]);
                }
            }
        }
    });
}

#[test]
fn any_length_at_any_offset_and_in_place() {
    let mut rng = Rng::new(1);
    for_each_impl(TABLE, |tier, kernel| {
        for n in (0..=35).chain([63, 64, 65, 127, 131]) {
            for offset in [0, 1, 7, 15] {
                let mut x = Aligned::from(&rng.floats(n + 2), offset);
                let mut y = Aligned::from(&vec![7.0; n + 2], 15 - offset);
                apply(kernel, Map::Gelu, &x[1..=n], &mut y[1..=n]);
                let before: Vec<f32> = x.to_vec();
                apply_in_place(kernel, Map::Gelu, &mut x[1..=n]);
                assert_eq!(x[1..=n], y[1..=n], "{tier} n {n}");
                assert_eq!([y[0], y[n + 1]], [7.0, 7.0], "{tier} n {n}: wrote outside");
                assert_eq!([x[0], x[n + 1]], [before[0], before[n + 1]], "{tier} n {n}: wrote outside");
                for (x, y) in before[1..=n].iter().zip(&y[1..=n]) {
                    assert!((f64::from(*y) - oracle(Map::Gelu, f64::from(*x))).abs() < 1e-6, "{tier} n {n}");
                }
            }
        }
    });
}

#[test]
fn a_map_reads_back_as_it_was_written() {
    for &(map, ..) in BOUNDS {
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<Map>(&text).unwrap(), map, "{text}");
    }
    let half = Map::Hardtanh { lo: 0.5, hi: f32::INFINITY };
    let text = serde_json::to_string(&half).unwrap();
    assert_eq!(text, r#"{"fn":"hardtanh","lo":0.5}"#);
    assert_eq!(serde_json::from_str::<Map>(&text).unwrap(), half);
}

#[test]
fn what_is_no_map_is_refused() {
    for text in [
        r#"{"fn":"relu7"}"#,
        r#"{"fn":"relu","slope":0.1}"#,
        r#"{"fn":"leaky_relu"}"#,
        r#"{"fn":"leaky_relu","slope":"steep"}"#,
        r#"{"fn":"leaky_relu","slope":0.1,"alpha":1}"#,
        r#"{"slope":0.1}"#,
        r#""relu""#,
    ] {
        assert!(serde_json::from_str::<Map>(text).is_err(), "{text}");
    }
}

#[test]
fn clamps_are_known_as_clamps() {
    assert_eq!(Map::Relu6.clamp(), Some([0.0, 6.0]));
    assert_eq!(Map::Hardtanh { lo: -1.0, hi: 2.0 }.clamp(), Some([-1.0, 2.0]));
    assert_eq!(Map::Silu.clamp(), None);
}
