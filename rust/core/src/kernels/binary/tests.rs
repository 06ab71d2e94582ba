//! Rows against the definitions in plain Rust, broadcasting against plain index arithmetic.

use super::{Binary, Broadcast, Row, TABLE, broadcast, row, strides};
use crate::tensor::{self, DType};
use crate::testing::{Rng, for_each_impl};
use bytemuck::{cast_slice, cast_slice_mut};
use proptest::prelude::*;

const SINGULAR: [f32; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.5,
    -2.5,
    1e-45,
    3e38,
    -3e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    7.0,
    -3.0,
];

/// torch's definition; what gives a bool gives 0 or 1.
fn float(f: Binary, a: f32, b: f32) -> f32 {
    let truth = |x: bool| f32::from(u8::from(x));
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Max => {
            if a.is_nan() || b.is_nan() {
                f32::NAN
            } else {
                a.max(b)
            }
        }
        Binary::Min => {
            if a.is_nan() || b.is_nan() {
                f32::NAN
            } else {
                a.min(b)
            }
        }
        Binary::FloorDiv => (f64::from(a) / f64::from(b)).floor() as f32,
        Binary::Mod => a - b * (a / b).floor(),
        Binary::Fmod => a - b * (a / b).trunc(),
        Binary::Atan2 => a.atan2(b),
        Binary::Eq => truth(a == b),
        Binary::Ne => truth(a != b),
        Binary::Lt => truth(a < b),
        Binary::Le => truth(a <= b),
        Binary::Gt => truth(a > b),
        Binary::Ge => truth(a >= b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
        Binary::Xor => truth((a != 0.0) != (b != 0.0)),
    }
}

fn integer(f: Binary, a: i64, b: i64) -> i128 {
    let (p, q) = (i128::from(a), i128::from(b));
    let truth = i128::from;
    match f {
        Binary::Add => p + q,
        Binary::Sub => p - q,
        Binary::Mul => p * q,
        Binary::Max => p.max(q),
        Binary::Min => p.min(q),
        Binary::FloorDiv => {
            let towards_zero = if q == 0 { 0 } else { p / q };
            // Rounded down where it is negative and not whole.
            towards_zero - i128::from(q != 0 && p % q != 0 && (p < 0) != (q < 0))
        }
        Binary::Mod => {
            if q == 0 {
                0
            } else {
                ((p % q) + q) % q
            }
        }
        Binary::Fmod => {
            if q == 0 {
                0
            } else {
                p % q
            }
        }
        Binary::And => p & q,
        Binary::Or => p | q,
        Binary::Xor => p ^ q,
        Binary::Eq => truth(p == q),
        Binary::Ne => truth(p != q),
        Binary::Lt => truth(p < q),
        Binary::Le => truth(p <= q),
        Binary::Gt => truth(p > q),
        Binary::Ge => truth(p >= q),
        Binary::Pow | Binary::Div | Binary::Atan2 => unreachable!(),
    }
}

fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// Runs a row of float32 and widens a bool result.
fn run_float(
    kernel: Row,
    f: Binary,
    a: &[f32],
    a_step: usize,
    b: &[f32],
    b_step: usize,
    n: usize,
) -> Vec<f32> {
    let dtype = f.result(DType::Float32).unwrap();
    let mut out = vec![0u8; (n + 1) * dtype.size()];
    let filler = out.len() - dtype.size();
    out[filler..].fill(0xA5);
    broadcast(
        kernel,
        f,
        DType::Float32,
        &[n],
        (cast_slice(a), &[a_step]),
        (cast_slice(b), &[b_step]),
        &mut out,
    );
    assert!(out[filler..].iter().all(|&x| x == 0xA5), "{f:?} n {n}: wrote past the end");
    match dtype {
        DType::Bool => out[..n].iter().map(|&x| f32::from(x)).collect(),
        _ => cast_slice(&out[..4 * n]).to_vec(),
    }
}

#[test]
fn every_float_function_of_singular_values() {
    let pairs: Vec<(f32, f32)> =
        SINGULAR.iter().flat_map(|&a| SINGULAR.iter().map(move |&b| (a, b))).collect();
    let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
    for_each_impl(TABLE, |tier, kernel| {
        for f in Binary::ALL {
            // These have tests of their own: their definition here holds for moderate operands alone.
            if matches!(f, Binary::FloorDiv | Binary::Mod | Binary::Fmod) {
                continue;
            }
            let out = run_float(kernel, f, &a, 1, &b, 1, a.len());
            for (i, &y) in out.iter().enumerate() {
                let truth = float(f, a[i], b[i]);
                assert!(same(y, truth), "{tier} {f:?}({}, {}) = {y}, not {truth}", a[i], b[i]);
            }
        }
    });
}

#[test]
fn lengths_and_steps_of_every_float_function() {
    let mut rng = Rng::new(2);
    // Eighths, so that remainders are exact in the definitions too.
    let mut eighths = |n| -> Vec<f32> { (0..n).map(|_| (rng.below(80) as f32 - 40.5) / 8.0).collect() };
    for_each_impl(TABLE, |tier, kernel| {
        for n in [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 67] {
            let (a, b) = (eighths(3 * n + 1), eighths(3 * n + 1));
            for f in Binary::ALL {
                for (a_step, b_step) in [(1, 1), (1, 0), (0, 1), (0, 0), (1, 3), (2, 0)] {
                    let out = run_float(kernel, f, &a, a_step, &b, b_step, n);
                    for (i, &y) in out.iter().enumerate() {
                        let (p, q) = (a[i * a_step], b[i * b_step]);
                        let truth = float(f, p, q);
                        // A scalar exponent is multiplied out where torch does.
                        let near = f == Binary::Pow && (y - truth).abs() <= 1e-6 * truth.abs();
                        assert!(same(y, truth) || near, "{tier} {f:?}({p}, {q}) = {y}, not {truth}");
                    }
                }
            }
        }
    });
}

#[test]
fn remainders_of_floats_are_torchs() {
    const INF: f32 = f32::INFINITY;
    let cases = [
        // a, b, floor_divide, remainder, fmod: torch 2.13
        (7.0, 2.0, 3.0, 1.0, 1.0),
        (-7.0, 2.0, -4.0, 1.0, -1.0),
        (7.0, -2.0, -4.0, -1.0, 1.0),
        (-7.0, -2.0, 3.0, -1.0, -1.0),
        (0.0, 0.0, f32::NAN, f32::NAN, f32::NAN),
        (1.0, 0.0, INF, f32::NAN, f32::NAN),
        (-1.0, 0.0, -INF, f32::NAN, f32::NAN),
        (5.5, INF, 0.0, 5.5, 5.5),
        (INF, 2.0, f32::NAN, f32::NAN, f32::NAN),
        (1.0, -INF, -1.0, -INF, 1.0),
    ];
    for_each_impl(TABLE, |tier, kernel| {
        for (a, b, quotient, modulo, fmod) in cases {
            for (f, truth) in [(Binary::FloorDiv, quotient), (Binary::Mod, modulo), (Binary::Fmod, fmod)] {
                let y = run_float(kernel, f, &[a], 1, &[b], 1, 1)[0];
                assert!(same(y, truth), "{tier} {f:?}({a}, {b}) = {y}, torch {truth}");
            }
        }
    });
}

/// Every function of one integer type against int128, cut to the type.
fn check_integers<T: bytemuck::Pod + std::fmt::Debug + PartialEq>(
    dtype: DType,
    values: &[i64],
    cut: fn(i128) -> T,
) {
    let kernel = row(dtype, TABLE.last().and_then(|entry| (entry.get)()).unwrap()).unwrap();
    for f in Binary::ALL {
        if f.result(dtype).is_none() || f == Binary::Pow {
            continue;
        }
        for &a in values {
            for &b in values {
                let (p, q) = ([cut(i128::from(a))], [cut(i128::from(b))]);
                let mut out = [0u8; 8];
                // SAFETY: one element of each; 8 bytes hold any result.
                #[allow(unsafe_code, reason = "the row's signature")]
                unsafe {
                    kernel(f, p.as_ptr().cast(), 1, q.as_ptr().cast(), 0, out.as_mut_ptr(), 1);
                }
                let truth = integer(f, a, b);
                if f.result(dtype) == Some(DType::Bool) {
                    assert_eq!(i128::from(out[0]), truth, "{dtype} {f:?}({a}, {b})");
                } else {
                    let y: T = bytemuck::pod_read_unaligned(&out[..size_of::<T>()]);
                    assert_eq!(y, cut(truth), "{dtype} {f:?}({a}, {b})");
                }
            }
        }
    }
}

#[test]
fn every_integer_function_of_extreme_values() {
    check_integers(DType::Int64, &[0, 1, -1, 2, -2, 7, -7, 1 << 40, i64::MAX, i64::MIN], |x| x as i64);
    let narrow = [0, 1, -1, 3, -3, 100, i64::from(i32::MAX), i64::from(i32::MIN)];
    check_integers(DType::Int32, &narrow, |x| x as i32);
    check_integers(DType::UInt8, &[0, 1, 2, 3, 7, 128, 254, 255], |x| x as u8);
}

#[test]
fn powers_of_integers_are_torchs() {
    let cases = [
        (2, 10, 1024),
        (-3, 3, -27),
        (0, 0, 1),
        (5, 0, 1),
        (3, 64, 3i64.wrapping_pow(64)),
        (2, -1, 0),
        (0, -1, 0),
        (1, -3, 1),
        (-1, -3, -1),
        (-1, -2, 1),
        (-1, i64::MAX, -1),
        (2, i64::MAX, 0),
    ];
    for (base, exponent, truth) in cases {
        assert_eq!(super::integer_pow(base, exponent), truth, "{base}^{exponent}");
    }
}

#[test]
fn functions_of_bools_stay_bools() {
    let scalar = (TABLE.last().unwrap().get)().unwrap();
    for f in Binary::ALL {
        let Some(result) = f.result(DType::Bool) else { continue };
        assert_eq!(result, DType::Bool);
        let (a, b) = ([0u8, 0, 1, 1], [0u8, 1, 0, 1]);
        let mut out = [7u8; 4];
        broadcast(scalar, f, DType::Bool, &[4], (&a, &[1]), (&b, &[1]), &mut out);
        let expected = match f {
            Binary::Add | Binary::Max | Binary::Or => [0, 1, 1, 1],
            Binary::Mul | Binary::Min | Binary::And => [0, 0, 0, 1],
            Binary::Ne | Binary::Xor => [0, 1, 1, 0],
            Binary::Eq => [1, 0, 0, 1],
            Binary::Lt => [0, 1, 0, 0],
            Binary::Le => [1, 1, 0, 1],
            Binary::Gt => [0, 0, 1, 0],
            Binary::Ge => [1, 0, 1, 1],
            _ => unreachable!("{f:?} is not defined on bools"),
        };
        assert_eq!(out, expected, "{f:?}");
    }
}

/// The offset of an element in an operand of that shape broadcast to `to`.
fn offset(mut index: usize, shape: &[usize], to: &[usize]) -> usize {
    let mut coordinates = vec![0; to.len()];
    for (i, &size) in to.iter().enumerate().rev() {
        coordinates[i] = index % size;
        index /= size;
    }
    let tail = &coordinates[to.len() - shape.len()..];
    shape.iter().zip(tail).fold(0, |at, (&size, &c)| at * size + if size == 1 { 0 } else { c })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn broadcasting_is_index_arithmetic(
        shape in proptest::collection::vec(0usize..6, 0..5),
        stays in proptest::collection::vec(any::<[bool; 2]>(), 5),
        drop in (0usize..3, 0usize..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let operand = |side: usize, drop: usize| -> Vec<usize> {
            let sizes = shape.iter().zip(&stays).map(|(&size, stays)| if stays[side] { 1 } else { size });
            sizes.skip(drop.min(shape.len())).collect()
        };
        let (a_shape, b_shape) = (operand(0, drop.0), operand(1, drop.1));
        let to = tensor::broadcast(&a_shape, &b_shape).unwrap();
        let mut rng = Rng::new(3);
        let (a, b) = (rng.floats(a_shape.iter().product()), rng.floats(b_shape.iter().product()));
        let n: usize = to.iter().product();
        let expected: Vec<f32> =
            (0..n).map(|i| a[offset(i, &a_shape, &to)] - b[offset(i, &b_shape, &to)]).collect();
        let (a_strides, b_strides) = (strides(&a_shape, &to), strides(&b_shape, &to));
        for_each_impl(TABLE, |_, kernel| {
            let mut out = vec![f32::NAN; n];
            let operands = ((cast_slice(&a), &a_strides[..]), (cast_slice(&b), &b_strides[..]));
            broadcast(kernel, Binary::Sub, DType::Float32, &to, operands.0, operands.1, cast_slice_mut(&mut out));
            assert_eq!(out, expected);
            // In two parts, as two threads would.
            let loops = Broadcast::new(&to, &a_strides, &b_strides);
            let middle = cut.index(n + 1);
            let mut parts = vec![f32::NAN; n];
            for range in [0..middle, middle..n] {
                // SAFETY: as `broadcast` checked for the same operands.
                #[allow(unsafe_code, reason = "parts of an output")]
                unsafe {
                    let out = parts.as_mut_ptr().cast();
                    loops.run(kernel, Binary::Sub, [4, 4], [a.as_ptr().cast(), b.as_ptr().cast()], out, range);
                }
            }
            assert_eq!(parts, expected);
        });
    }
}

#[test]
fn neighbouring_dimensions_become_one() {
    let loops = Broadcast::new(&[2, 1, 3, 4], &[12, 5, 4, 1], &[0, 0, 0, 0]);
    assert_eq!(loops, Broadcast::new(&[24], &[1], &[0]));
    // A value for each channel of planes: one run a channel.
    let loops = Broadcast::new(&[2, 3, 16], &[48, 16, 1], &[0, 1, 0]);
    assert_eq!(loops.shape, [2, 3, 16]);
}

#[test]
#[should_panic(expected = "extent")]
fn an_operand_that_is_too_short_is_refused() {
    let scalar = (TABLE.last().unwrap().get)().unwrap();
    let (a, b, mut out) = ([0f32; 3], [0f32; 4], [0f32; 4]);
    broadcast(
        scalar,
        Binary::Add,
        DType::Float32,
        &[4],
        (cast_slice(&a), &[1]),
        (cast_slice(&b), &[1]),
        cast_slice_mut(&mut out),
    );
}

#[test]
fn an_operand_may_be_the_output() {
    for_each_impl(TABLE, |tier, kernel| {
        let mut a: Vec<f32> = (0..37u8).map(f32::from).collect();
        let loops = Broadcast::new(&[37], &[1], &[0]);
        let ten = 10f32;
        let p = a.as_mut_ptr();
        // SAFETY: the output is an operand of step 1.
        #[allow(unsafe_code, reason = "in place")]
        unsafe {
            loops.run(kernel, Binary::Mul, [4, 4], [p.cast(), (&raw const ten).cast()], p.cast(), 0..37);
        }
        assert!(a.iter().enumerate().all(|(i, &x)| x == 10.0 * i as f32), "{tier}");
    });
}
