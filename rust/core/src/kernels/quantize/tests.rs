//! Every tier bit for bit against the table of formulas, in float32 steps written out.

use super::{ADD, BLEND, Bytes, DEQUANTIZE, LOOKUP, MUL, Operand, Product, QUANTIZE, RANGE, add, lookup};
use crate::testing::{Aligned, Rng, for_each_impl};

const LENGTHS: [usize; 15] = [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 131];

/// The last step, in integers, wide enough for any float32.
fn bytes(y: f32, to: Bytes) -> u8 {
    let rounded = if y.is_nan() { 0.0 } else { f64::from(y).round_ties_even() };
    (rounded + f64::from(to.zero_point)).clamp(f64::from(to.lo), f64::from(to.hi)) as u8
}

fn ranges() -> Vec<Bytes> {
    let mut made = Vec::new();
    for zero_point in [0, 1, 113, 128, 255] {
        for (lo, hi) in [(0, 255), (zero_point, 255), (0, 127), (128, 200)] {
            made.push(Bytes { zero_point, lo, hi });
        }
    }
    made
}

#[test]
fn a_range_holds_every_element_and_zero() {
    let mut rng = Rng::new(7);
    for_each_impl(RANGE, |tier, range| {
        for n in LENGTHS {
            let mut x = Aligned::<f32>::new(n, 1);
            for sign in [-1.0, 0.0, 1.0] {
                x.iter_mut().for_each(|x| *x = rng.float() + 2.0 * sign);
                let want = x.iter().fold([0f32; 2], |[lo, hi], &x| [lo.min(x), hi.max(x)]);
                assert_eq!(range(&x), want, "{tier}, {n} elements");
            }
            for at in 0..n {
                x[at] = f32::NAN;
                assert!(range(&x).iter().all(|x| x.is_nan()), "{tier}: NaN at {at} of {n}");
                x[at] = f32::INFINITY;
                assert_eq!(range(&x)[1], f32::INFINITY, "{tier}: infinity at {at} of {n}");
                x[at] = 1.0;
            }
        }
    });
}

#[test]
fn quantization_is_its_formula() {
    let mut rng = Rng::new(5);
    let singular = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e30,
        -1e30,
        3e9,
        8_388_609.0,
    ];
    for_each_impl(QUANTIZE, |tier, kernel| {
        for n in LENGTHS {
            for to in ranges() {
                for inverse in [1.0, 37.3, 0.011] {
                    let mut x: Vec<f32> = (0..n).map(|_| rng.float() * 300.0 / inverse).collect();
                    let start = rng.below(n.max(1));
                    x.iter_mut().skip(start).zip(singular).for_each(|(x, s)| *x = s);
                    let x = Aligned::from(&x, n % 16);
                    let mut y = vec![77; n + 1];
                    kernel(inverse, to, &x, &mut y[..n]);
                    for (x, y) in x.iter().zip(&y) {
                        assert_eq!(*y, bytes(x * inverse, to), "{tier} {x} · {inverse} to {to:?}");
                    }
                    assert_eq!(y[n], 77, "{tier} n {n}: wrote past the end");
                }
            }
        }
    });
}

#[test]
fn every_byte_is_dequantized() {
    let x: Vec<u8> = (0..=255).collect();
    for_each_impl(DEQUANTIZE, |tier, kernel| {
        for zero_point in [0, 7, 128, 255] {
            for scale in [1.0, 0.023_7, 1e-20] {
                for n in [256, 255, 33, 5, 0] {
                    let mut y = vec![0.5; n + 1];
                    kernel(Operand { scale, zero_point }, &x[..n], &mut y[..n]);
                    for (&x, &y) in x.iter().zip(&y[..n]) {
                        let truth = f32::from(i16::from(x) - i16::from(zero_point)) * scale;
                        assert_eq!(y.to_bits(), truth.to_bits(), "{tier} {x}");
                    }
                    assert_eq!(y[n], 0.5, "{tier} n {n}: wrote past the end");
                }
            }
        }
    });
}

#[test]
fn sums_of_every_pair_of_bytes() {
    let (a, b): (Vec<u8>, Vec<u8>) = (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b))).unzip();
    let cases = [
        ([(1.0, 0), (1.0, 0)], Bytes { zero_point: 0, lo: 0, hi: 255 }),
        ([(0.5, 128), (0.5, 128)], Bytes { zero_point: 128, lo: 0, hi: 255 }),
        ([(0.731, 3), (1.217, 250)], Bytes { zero_point: 77, lo: 77, hi: 255 }),
        ([(1e12, 3), (1e-12, 250)], Bytes { zero_point: 100, lo: 10, hi: 240 }),
    ];
    for_each_impl(ADD, |tier, kernel| {
        for (operands, to) in cases {
            let operands = operands.map(|(scale, zero_point)| Operand { scale, zero_point });
            let mut y = vec![0; a.len()];
            add(kernel, operands, to, &a, &b, &mut y);
            for ((&p, &q), &y) in a.iter().zip(&b).zip(&y) {
                let value = |q: u8, of: Operand| (f32::from(q) - f32::from(of.zero_point)) * of.scale;
                assert_eq!(
                    y,
                    bytes(value(p, operands[0]) + value(q, operands[1]), to),
                    "{tier} {p} + {q} {operands:?}"
                );
            }
        }
        for n in LENGTHS {
            let operands = [Operand { scale: 1.0, zero_point: 0 }; 2];
            let mut y = vec![77; n + 1];
            add(kernel, operands, Bytes { zero_point: 0, lo: 0, hi: 255 }, &b[..n], &b[..n], &mut y[..n]);
            assert!(y[..n].iter().zip(&b).all(|(&y, &b)| y == b.saturating_mul(2)), "{tier} n {n}");
            assert_eq!(y[n], 77, "{tier} n {n}: wrote past the end");
        }
    });
}

#[test]
#[allow(unsafe_code, reason = "kernels of pointers, which also work in place")]
fn products_of_every_pair_of_bytes() {
    let all: Vec<u8> = (0..=255).collect();
    let cases = [
        ([0, 0], 1.0, Bytes { zero_point: 0, lo: 0, hi: 255 }),
        // Halves of every kind.
        ([128, 128], 0.5, Bytes { zero_point: 128, lo: 0, hi: 255 }),
        ([3, 250], 0.007_31, Bytes { zero_point: 77, lo: 77, hi: 200 }),
        ([255, 0], 1e30, Bytes { zero_point: 255, lo: 1, hi: 254 }),
        ([17, 200], 1e-30, Bytes { zero_point: 5, lo: 0, hi: 255 }),
    ];
    for_each_impl(MUL, |tier, kernel| {
        for (zero_points, scale, bytes_out) in cases {
            let product = Product { zero_points, scale, bytes: bytes_out };
            let truth = |a: u8, b: u8| {
                let exact =
                    (i32::from(a) - i32::from(zero_points[0])) * (i32::from(b) - i32::from(zero_points[1]));
                bytes(exact as f32 * scale, bytes_out)
            };
            for n in LENGTHS.into_iter().chain([256]) {
                for fixed in [0, 1, 3, 127, 128, 200, 254, 255] {
                    let other = vec![fixed; n.max(1)];
                    let mut got = [(); 5].map(|()| vec![77; n + 1]);
                    // SAFETY: every operand has `n` bytes, and one that stays has one.
                    unsafe {
                        kernel(product, all.as_ptr(), other.as_ptr(), [1, 0], got[0].as_mut_ptr(), n);
                        kernel(product, other.as_ptr(), all.as_ptr(), [0, 1], got[1].as_mut_ptr(), n);
                        kernel(product, all.as_ptr(), other.as_ptr(), [1, 1], got[2].as_mut_ptr(), n);
                        kernel(product, other.as_ptr(), &raw const all[9], [0, 0], got[3].as_mut_ptr(), n);
                        got[4][..n].copy_from_slice(&all[..n]);
                        let place = got[4].as_mut_ptr();
                        kernel(product, place, other.as_ptr(), [1, 1], place, n);
                    }
                    for (i, &x) in all[..n].iter().enumerate() {
                        let want = [
                            truth(x, fixed),
                            truth(fixed, x),
                            truth(x, fixed),
                            truth(fixed, all[9]),
                            truth(x, fixed),
                        ];
                        for (got, want) in got.iter().zip(want) {
                            assert_eq!(got[i], want, "{tier} {x} · {fixed} {product:?}");
                        }
                    }
                    assert!(got.iter().all(|got| got[n] == 77), "{tier} n {n}: wrote past the end");
                }
            }
        }
    });
}

#[test]
fn rows_are_mixed_with_two_roundings_and_one_more() {
    let mut rng = Rng::new(9);
    let to = Bytes { zero_point: 0, lo: 0, hi: 255 };
    for_each_impl(BLEND, |tier, kernel| {
        for n in LENGTHS {
            for weights in
                [[1.0, 0.0], [0.5, 0.5], [0.75, 0.25], [0.1, 0.9], [3.0, -1.0], [-2.0, 0.5], [1e30, 0.0]]
            {
                let row = |rng: &mut Rng| -> Vec<f32> {
                    (0..n)
                        .map(|i| if i % 3 == 0 { rng.below(256) as f32 } else { rng.float().abs() * 255.0 })
                        .collect()
                };
                let (a, b) = (Aligned::from(&row(&mut rng), n % 16), Aligned::from(&row(&mut rng), n % 7));
                let mut y = vec![77; n + 1];
                kernel(weights, &a, &b, &mut y[..n]);
                for ((&a, &b), &y) in a.iter().zip(b.iter()).zip(&y) {
                    assert_eq!(y, bytes(a * weights[0] + b * weights[1], to), "{tier} {a} {b} {weights:?}");
                }
                assert_eq!(y[n], 77, "{tier} n {n}: wrote past the end");
            }
        }
    });
}

#[test]
fn every_byte_is_looked_up() {
    let mut rng = Rng::new(6);
    let table: [u8; 256] = std::array::from_fn(|_| rng.below(256) as u8);
    let x: Vec<u8> = (0..=255).chain((0..300).map(|_| rng.below(256) as u8)).collect();
    for_each_impl(LOOKUP, |tier, kernel| {
        for n in LENGTHS.into_iter().chain([256, 556]) {
            for offset in [0, 1, 13] {
                let mut x = Aligned::from(&x[..n], offset);
                let mut y = vec![77; n + 1];
                lookup(kernel, &table, &x, &mut y[..n]);
                assert!(x.iter().zip(&y).all(|(&x, &y)| y == table[usize::from(x)]), "{tier} n {n}");
                assert_eq!(y[n], 77, "{tier} n {n}: wrote past the end");
                let p = x.as_mut_ptr();
                // SAFETY: `n` bytes, in place.
                #[allow(unsafe_code, reason = "in place")]
                unsafe {
                    kernel(&table, p, p, n);
                }
                assert_eq!(x[..], y[..n], "{tier} n {n} in place");
            }
        }
    });
}
