//! Every tier and layout against float64 in plain loops.

use super::norm::{self, Group, Norm, group_norm, layer_norm};
use super::softmax::{self, softmax, softmax_in_place};
use super::{BLOCK, Dims, Reduce, TABLE, arg_extreme, reduce_i64, truth};
use crate::testing::{Aligned, Rng, for_each_impl};
use proptest::prelude::*;

/// Half a unit in the last place of 1.
const HALF_ULP: f64 = f32::EPSILON as f64 / 2.0;

/// The relative error that a cascaded sum of `n` may have, of magnitudes' sum, with a few roundings beside.
fn cascade(n: usize) -> f64 {
    (n.min(BLOCK) + n / BLOCK + 6) as f64 * HALF_ULP
}

/// Rows and columns around the vectors' lengths, the unrolled loops' and a block's.
const DIMS: [(usize, usize, usize); 21] = [
    (1, 1, 1),
    (3, 5, 1),
    (2, 15, 1),
    (2, 16, 1),
    (2, 17, 1),
    (2, 63, 1),
    (2, 64, 1),
    (2, 67, 1),
    (1, 131, 1),
    (1, 1024, 1),
    (1, 1025, 1),
    (1, 5003, 1),
    (2, 3, 2),
    (2, 7, 5),
    (1, 9, 16),
    (2, 4, 17),
    (1, 6, 64),
    (1, 5, 131),
    (1, 1030, 3),
    (1, 2100, 33),
    (3, 1, 31),
];

fn dims() -> impl Iterator<Item = Dims> {
    DIMS.into_iter().map(|(outer, axis, inner)| Dims::new(outer, axis, inner))
}

/// The elements of one reduction.
fn axis(dims: Dims, x: &[f32], i: usize) -> Vec<f64> {
    let start = i / dims.inner * dims.apart + i % dims.inner;
    (0..dims.axis).map(|k| f64::from(x[start + k * dims.stride])).collect()
}

/// The definition, and the error it may have.
fn oracle(f: Reduce, x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let sum = |g: &dyn Fn(f64) -> f64| x.iter().map(|&x| g(x)).sum::<f64>();
    let magnitude = sum(&f64::abs);
    let extreme = |g: fn(f64, f64) -> f64, start: f64| x.iter().copied().fold(start, g);
    match f {
        Reduce::Sum => (sum(&|x| x), cascade(x.len()) * magnitude),
        Reduce::Mean => (sum(&|x| x) / n, cascade(x.len()) * magnitude / n),
        Reduce::Max => (extreme(f64::max, f64::NEG_INFINITY), 0.0),
        Reduce::Min => (extreme(f64::min, f64::INFINITY), 0.0),
        Reduce::Prod => {
            let product: f64 = x.iter().product();
            (product, (n + 6.0) * HALF_ULP * product.abs() + 1e-44 * n)
        }
        Reduce::Var { correction } | Reduce::Std { correction } => {
            let mean = sum(&|x| x) / n;
            let squares = sum(&|x| (x - mean).powi(2));
            let variance = squares / (n - correction).max(0.0);
            // The mean's error shifts every deviation: its square, n times over.
            let shift = cascade(x.len()) * magnitude / n;
            let error = (2.0 * cascade(x.len()) * squares + n * shift.powi(2)) / (n - correction);
            if matches!(f, Reduce::Std { .. }) {
                (variance.sqrt(), error / variance.sqrt().max(1e-30) + HALF_ULP * variance.sqrt())
            } else {
                (variance, error)
            }
        }
        Reduce::Norm { p: 0.0 } => (sum(&|x| f64::from(u8::from(x != 0.0))), 0.0),
        Reduce::Norm { p: f64::INFINITY } => (x.iter().fold(0.0, |a, x| x.abs().max(a)), 0.0),
        Reduce::Norm { p: f64::NEG_INFINITY } => (x.iter().fold(f64::INFINITY, |a, x| x.abs().min(a)), 0.0),
        Reduce::Norm { p } => {
            let norm = sum(&|x| x.abs().powf(p)).powf(1.0 / p);
            (norm, cascade(x.len()) * norm)
        }
    }
}

const ALL: [Reduce; 14] = [
    Reduce::Sum,
    Reduce::Mean,
    Reduce::Max,
    Reduce::Min,
    Reduce::Prod,
    Reduce::Var { correction: 0.0 },
    Reduce::Var { correction: 1.0 },
    Reduce::Std { correction: 1.0 },
    Reduce::Norm { p: 0.0 },
    Reduce::Norm { p: 1.0 },
    Reduce::Norm { p: 2.0 },
    Reduce::Norm { p: 3.0 },
    Reduce::Norm { p: f64::INFINITY },
    Reduce::Norm { p: f64::NEG_INFINITY },
];

#[test]
fn every_reduction_of_every_layout() {
    let mut rng = Rng::new(7);
    for_each_impl(TABLE, |tier, kernel| {
        let gaps = [(1280, 49, 64), (3, 7, 16), (2, 1, 5), (1, 9, 9), (0, 4, 8)];
        let planes = gaps.into_iter().map(|(rows, n, apart)| Dims::planes(rows, n, apart));
        for (dims, offset) in dims().chain(planes).zip((0..16).cycle()) {
            let values: Vec<f32> = rng.sparse_floats(dims.len(), 0.1).iter().map(|x| x + 0.25).collect();
            let x = Aligned::from(&values, offset);
            for f in ALL {
                let mut out = vec![0.5; dims.reduced() + 1];
                kernel(f, dims, &x, &mut out[..dims.reduced()]);
                assert_eq!(out[dims.reduced()], 0.5, "{tier} {dims:?}: wrote past the end");
                for (i, &y) in out[..dims.reduced()].iter().enumerate() {
                    let (truth, error) = oracle(f, &axis(dims, &x, i));
                    let same = (truth.is_nan() && y.is_nan()) || f64::from(y) == truth;
                    let near = (f64::from(y) - truth).abs() <= error + HALF_ULP * truth.abs();
                    assert!(same || near, "{tier} {f:?} {dims:?} at {i}: {y}, not {truth} ± {error:e}");
                }
            }
        }
    });
}

#[test]
fn a_nan_comes_through_and_an_empty_axis_gives_the_identity() {
    for_each_impl(TABLE, |tier, kernel| {
        for dims in dims().filter(|dims| dims.axis > 2) {
            for f in ALL {
                let mut x = vec![1.0; dims.len()];
                let at = dims.axis / 2 * dims.inner;
                x[at] = f32::NAN;
                let mut out = vec![0.0; dims.reduced()];
                kernel(f, dims, &x, &mut out);
                // A NaN is not zero, which is what that norm counts.
                let counted = f == Reduce::Norm { p: 0.0 };
                assert_eq!(out[0].is_nan(), !counted, "{tier} {f:?} {dims:?}");
                assert!(out[1..].iter().all(|y| !y.is_nan()), "{tier} {f:?} {dims:?}: NaN spread");
            }
        }
        for inner in [1, 20] {
            let identity = |f| {
                let mut out = vec![0.5; inner];
                kernel(f, Dims::new(1, 0, inner), &[], &mut out);
                out[inner - 1]
            };
            assert_eq!(identity(Reduce::Sum), 0.0, "{tier}");
            assert_eq!(identity(Reduce::Prod), 1.0, "{tier}");
            assert!(identity(Reduce::Mean).is_nan(), "{tier}");
        }
    });
}

#[test]
fn variances_without_freedom_are_torchs() {
    for_each_impl(TABLE, |tier, kernel| {
        let var = |x: &[f32], correction| {
            let mut out = [0.0];
            kernel(Reduce::Var { correction }, Dims::rows(1, x.len()), x, &mut out);
            out[0]
        };
        assert_eq!(var(&[1.0, 2.0], 2.0), f32::INFINITY, "{tier}");
        assert_eq!(var(&[1.0, 2.0], 3.0), f32::INFINITY, "{tier}");
        assert!(var(&[1.0], 1.0).is_nan(), "{tier}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_axes_that_are_neighbours(
        (shape, axes) in proptest::collection::vec(0usize..5, 1..6).prop_flat_map(|shape| {
            let axes: Vec<usize> = (0..shape.len()).collect();
            let n = axes.len();
            (Just(shape), proptest::sample::subsequence(axes, 0..=n).prop_shuffle())
        }),
    ) {
        let Some(dims) = Dims::collapse(&shape, &axes) else { return Ok(()) };
        let mut rng = Rng::new(8);
        let n: usize = shape.iter().product();
        let x = rng.floats(n);
        let kept: Vec<usize> = (0..shape.len()).filter(|i| !axes.contains(i)).collect();
        let reduced: usize = kept.iter().map(|&i| shape[i]).product();
        let mut expected = vec![0f64; reduced];
        for (mut i, &x) in x.iter().enumerate() {
            let mut coordinates = vec![0; shape.len()];
            for (at, &size) in shape.iter().enumerate().rev() {
                coordinates[at] = i % size;
                i /= size;
            }
            expected[kept.iter().fold(0, |at, &k| at * shape[k] + coordinates[k])] += f64::from(x);
        }
        for_each_impl(TABLE, |_, kernel| {
            let mut out = vec![0.5; reduced];
            kernel(Reduce::Sum, dims, &x, &mut out);
            for (y, truth) in out.iter().zip(&expected) {
                assert!((f64::from(*y) - truth).abs() <= cascade(n) * n as f64, "{shape:?} over {axes:?}");
            }
        });
    }
}

#[test]
fn axes_that_are_neighbours_are_one() {
    let dims = |outer, axis, inner| Some(Dims::new(outer, axis, inner));
    assert_eq!(Dims::collapse(&[2, 3, 4, 5], &[2, 1]), dims(2, 12, 5));
    assert_eq!(Dims::collapse(&[2, 3, 4, 5], &[3, 2]), dims(6, 20, 1));
    assert_eq!(Dims::collapse(&[2, 3, 1, 5], &[1, 3]), dims(2, 15, 1));
    assert_eq!(Dims::collapse(&[2, 3, 4, 5], &[1, 3]), None);
    assert_eq!(Dims::collapse(&[2, 3], &[]), dims(6, 1, 1));
    assert_eq!(Dims::collapse(&[], &[]), dims(1, 1, 1));
}

#[test]
fn extremes_are_found_at_the_first_of_equals() {
    const NAN: f32 = f32::NAN;
    for (x, most, least) in [
        (vec![1.0, 3.0, 3.0, 0.0, 0.0], 1, 3),
        (vec![1.0, NAN, 3.0, NAN], 1, 1),
        (vec![NAN, 3.0], 0, 0),
        (vec![-0.0, 0.0], 0, 0),
        (vec![f32::NEG_INFINITY, f32::NEG_INFINITY], 0, 0),
    ] {
        // As a row, and as the first of three columns.
        let columns: Vec<f32> = x.iter().flat_map(|&x| [x, 7.0, 8.0]).collect();
        for (greatest, expected) in [(true, most), (false, least)] {
            let mut out = [9; 1];
            arg_extreme(greatest, Dims::rows(1, x.len()), &x, &mut out);
            assert_eq!(out, [expected], "{x:?}");
            let mut out = [9; 3];
            arg_extreme(greatest, Dims::new(1, x.len(), 3), &columns, &mut out);
            assert_eq!(out, [expected, 0, 0], "{x:?}");
        }
    }
}

#[test]
fn truths_and_integers_of_every_layout() {
    let mut rng = Rng::new(9);
    for dims in dims() {
        let x: Vec<i64> = (0..dims.len()).map(|_| rng.below(3) as i64 - 1).collect();
        let column = |i: usize| -> Vec<i64> {
            let start = i / dims.inner * dims.axis * dims.inner + i % dims.inner;
            (0..dims.axis).map(|k| x[start + k * dims.inner]).collect()
        };
        let (mut any, mut all) = (vec![9; dims.reduced()], vec![9; dims.reduced()]);
        truth(false, dims, &x, &mut any);
        truth(true, dims, &x, &mut all);
        let run = |f| {
            let mut out = vec![9; dims.reduced()];
            reduce_i64(f, dims, &x, &mut out);
            out
        };
        let (sum, prod, max, min) = (run(Reduce::Sum), run(Reduce::Prod), run(Reduce::Max), run(Reduce::Min));
        for i in 0..dims.reduced() {
            let x = column(i);
            assert_eq!(any[i] == 1, x.iter().any(|&x| x != 0));
            assert_eq!(all[i] == 1, x.iter().all(|&x| x != 0));
            assert_eq!(sum[i], x.iter().sum::<i64>());
            assert_eq!(prod[i], x.iter().product::<i64>());
            assert_eq!([max[i], min[i]], [*x.iter().max().unwrap(), *x.iter().min().unwrap()]);
        }
    }
    let mut out = [9; 2];
    truth::<f32>(true, Dims::new(2, 0, 1), &[], &mut out);
    assert_eq!(out, [1, 1]);
    truth(false, Dims::rows(2, 2), &[0.0, f32::NAN, -0.0, 0.0], &mut out);
    assert_eq!(out, [1, 0]);
}

#[test]
fn softmax_of_every_layout() {
    let mut rng = Rng::new(10);
    for_each_impl(softmax::TABLE, |tier, kernel| {
        for (dims, offset) in dims().zip((0..16).cycle()) {
            let values: Vec<f32> = (0..dims.len()).map(|_| rng.float() * 30.0).collect();
            let mut x = Aligned::from(&values, offset);
            for log in [false, true] {
                let mut y = vec![0.5; dims.len() + 1];
                softmax(kernel, log, dims, &x, &mut y[..dims.len()]);
                assert_eq!(y[dims.len()], 0.5, "{tier} {dims:?}: wrote past the end");
                for i in 0..dims.reduced() {
                    let (x, y) = (axis(dims, &x, i), axis(dims, &y, i));
                    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
                    for (x, y) in x.iter().zip(&y) {
                        // Of a difference up to 60, the rounding alone is 2⁻¹⁹ of the result.
                        let distance =
                            (x - most).abs() * HALF_ULP * 2.0 + cascade(dims.axis) + 4.0 * HALF_ULP;
                        let truth = (x - most).exp() / sum;
                        let near = if log {
                            (y - truth.ln()).abs() <= distance + truth.ln().abs() * 2.0 * HALF_ULP
                        } else {
                            (y - truth).abs() <= distance * truth + f64::from(f32::MIN_POSITIVE)
                        };
                        assert!(near, "{tier} log {log} {dims:?}: {y}, not {truth}");
                    }
                }
                if log {
                    softmax_in_place(kernel, log, dims, &mut x);
                    assert_eq!(x[..], y[..dims.len()], "{tier} {dims:?} in place");
                }
            }
        }
    });
}

#[test]
fn softmax_of_singular_values_is_torchs() {
    const INF: f32 = f32::INFINITY;
    for_each_impl(softmax::TABLE, |tier, kernel| {
        // In a row that takes more than one vector, and in a column.
        for inner in [1, 3] {
            let run = |log, fill: f32, special: f32| {
                let dims = Dims::new(1, 70, inner);
                let mut x = vec![fill; dims.len()];
                x[66 * inner] = special;
                softmax_in_place(kernel, log, dims, &mut x);
                (x[0], x[66 * inner])
            };
            for log in [false, true] {
                for (fill, special) in [(-INF, -INF), (1.0, f32::NAN), (1.0, INF)] {
                    let (a, b) = run(log, fill, special);
                    assert!(a.is_nan() && b.is_nan(), "{tier} {log} {fill} {special}: {a} {b}");
                }
            }
            assert_eq!(run(false, -INF, 1.0), (0.0, 1.0), "{tier}");
            assert_eq!(run(true, -INF, 1.0), (-INF, 0.0), "{tier}");
            assert_eq!(run(false, -3e38, 3e38), (0.0, 1.0), "{tier}");
        }
    });
}

/// `(x - mean) / √(variance + eps)` of some elements, and how far the result may be from it.
fn normalized(x: &[f64], eps: f64, center: bool) -> (Vec<f64>, f64) {
    let n = x.len() as f64;
    let mean = if center { x.iter().sum::<f64>() / n } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let deviation = (variance + eps).sqrt();
    let most = x.iter().fold(0f64, |most, x| most.max(x.abs()));
    let error = (2.0 * cascade(x.len()) + 8.0 * HALF_ULP) * 2.0 * most / deviation;
    (x.iter().map(|x| (x - mean) / deviation).collect(), error)
}

#[test]
fn layers_of_every_layout() {
    let mut rng = Rng::new(11);
    for_each_impl(norm::LAYER, |tier, kernel| {
        for (dims, offset) in dims().zip((0..16).cycle()) {
            let x: Vec<f32> = rng.floats(dims.len()).iter().map(|x| 3.0 * x + 1.0).collect();
            let x = Aligned::from(&x, offset);
            let (scale, shift) = (rng.floats(dims.axis), rng.floats(dims.axis));
            for (center, scaled, shifted) in
                [(true, true, true), (false, true, false), (true, false, false), (true, false, true)]
            {
                let norm = Norm {
                    eps: 1e-5,
                    center,
                    scale: scaled.then_some(&scale),
                    shift: shifted.then_some(&shift),
                };
                let mut y = vec![0.5; dims.len() + 1];
                layer_norm(kernel, &norm, dims, &x, &mut y[..dims.len()]);
                assert_eq!(y[dims.len()], 0.5, "{tier} {dims:?}: wrote past the end");
                for i in 0..dims.reduced() {
                    let (truth, error) = normalized(&axis(dims, &x, i), f64::from(norm.eps), center);
                    for (k, y) in axis(dims, &y, i).iter().enumerate() {
                        let mut truth = truth[k];
                        if scaled {
                            truth *= f64::from(scale[k]);
                        }
                        if shifted {
                            truth += f64::from(shift[k]);
                        }
                        assert!((y - truth).abs() <= error, "{tier} {dims:?}: {y}, not {truth} ± {error:e}");
                    }
                }
            }
        }
    });
}

#[test]
fn groups_of_planes_with_and_without_gaps() {
    let mut rng = Rng::new(12);
    for_each_impl(norm::GROUP, |tier, kernel| {
        for (channels, plane, pitch) in [
            (1, 1, 1),
            (1, 49, 64),
            (4, 49, 64),
            (3, 16, 16),
            (5, 33, 33),
            (2, 1500, 1504),
            (0, 3, 4),
            (2, 0, 16),
        ] {
            let group = Group { channels, plane, pitch };
            // A NaN in the gaps must not matter.
            let mut x = vec![f32::NAN; channels * pitch];
            for channel in x.chunks_mut(pitch) {
                channel[..plane].iter_mut().for_each(|x| *x = 2.0 * rng.float() - 5.0);
            }
            let (scale, shift) = (rng.floats(channels), rng.floats(channels));
            for affine in [true, false] {
                let norm = Norm {
                    eps: 1e-5,
                    center: true,
                    scale: affine.then_some(&scale),
                    shift: affine.then_some(&shift),
                };
                let mut y = vec![0.5; channels * pitch];
                group_norm(kernel, &norm, group, &x, &mut y);
                let elements: Vec<f64> =
                    x.chunks(pitch).flat_map(|channel| &channel[..plane]).map(|&x| f64::from(x)).collect();
                let (truth, error) = normalized(&elements, f64::from(norm.eps), true);
                for (i, &y) in y.iter().enumerate() {
                    let (c, k) = (i / pitch, i % pitch);
                    if k >= plane {
                        assert_eq!(y, 0.5, "{tier} {group:?}: wrote in the gap");
                        continue;
                    }
                    let mut truth = truth[c * plane + k];
                    if affine {
                        truth = truth * f64::from(scale[c]) + f64::from(shift[c]);
                    }
                    assert!(
                        (f64::from(y) - truth).abs() <= error,
                        "{tier} {group:?}: {y}, not {truth} ± {error:e}"
                    );
                }
            }
        }
    });
}

#[test]
fn columns_shared_by_threads_give_the_same_bits() {
    let mut rng = Rng::new(13);
    let dims = Dims::new(2, 37, 83);
    let x = rng.floats(dims.len());
    let scale = rng.floats(dims.axis);
    // Cuts that leave vectors whole, or not.
    for cuts in [vec![0, 32, 83], vec![0, 5, 6, 70, 83]] {
        let parts: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        for_each_impl(softmax::TABLE, |tier, kernel| {
            let (mut whole, mut shared) = (x.clone(), x.clone());
            softmax_in_place(kernel, false, dims, &mut whole);
            for part in &parts {
                softmax_in_place(kernel, false, dims.columns(part.clone()), &mut shared[part.start..]);
            }
            assert_eq!(whole, shared, "{tier}");
        });
        for_each_impl(norm::LAYER, |tier, kernel| {
            let norm = Norm { eps: 1e-5, center: true, scale: Some(&scale), shift: None };
            let (mut whole, mut shared) = (x.clone(), x.clone());
            layer_norm(kernel, &norm, dims, &x, &mut whole);
            for part in &parts {
                layer_norm(
                    kernel,
                    &norm,
                    dims.columns(part.clone()),
                    &x[part.start..],
                    &mut shared[part.start..],
                );
            }
            assert_eq!(whole, shared, "{tier}");
        });
        for_each_impl(TABLE, |tier, kernel| {
            let mut whole = vec![0.0; dims.reduced()];
            kernel(Reduce::Sum, dims, &x, &mut whole);
            for part in &parts {
                let mut shared = vec![0.0; 2 * part.len()];
                kernel(Reduce::Sum, dims.columns(part.clone()), &x[part.start..], &mut shared);
                let expected: Vec<f32> =
                    whole.chunks(83).flat_map(|row| &row[part.clone()]).copied().collect();
                assert_eq!(shared, expected, "{tier}");
            }
        });
    }
}

#[test]
fn a_reduction_reads_back_as_it_was_written() {
    for f in ALL {
        let text = serde_json::to_string(&f).unwrap();
        assert_eq!(serde_json::from_str::<Reduce>(&text).unwrap(), f, "{text}");
    }
    assert_eq!(
        serde_json::to_string(&Reduce::Norm { p: f64::INFINITY }).unwrap(),
        r#"{"fn":"norm","p":"inf"}"#
    );
    for text in [r#"{"fn":"median"}"#, r#"{"fn":"norm","p":"much"}"#, r#"{"fn":"var"}"#] {
        assert!(serde_json::from_str::<Reduce>(text).is_err(), "{text}");
    }
}
