use super::*;
use crate::testing::{Rng, for_each_impl, sum_bound};
use crate::weight::tile;
use std::fmt::Debug;
use std::ops::Range;

/// What `out` holds before a kernel writes to it.
const UNTOUCHED: f32 = 77.0;

/// A product with everything a kernel may be asked to do to it. Vectors and products are `gap` elements longer than they
/// need to be: NaN in the former, untouched in the latter.
struct Case<T> {
    m: usize,
    k: usize,
    n: usize,
    gap: usize,
    weight: Vec<T>,
    tiles: Vec<T>,
    x: Vec<f32>,
    residual: Option<Vec<f32>>,
    scale: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    clamp: [f32; 2],
}

impl<T: Copy + Default + Into<f32> + Debug> Case<T> {
    fn new(rng: &mut Rng, make: fn(f32) -> T, m: usize, k: usize, n: usize, gap: usize) -> Case<T> {
        let weight: Vec<T> = rng.floats(m * k).into_iter().map(make).collect();
        let tiles = tile(m, k, &weight);
        let mut x = vec![f32::NAN; n * (k + gap)];
        for v in 0..n {
            x[v * (k + gap)..][..k].copy_from_slice(&rng.floats(k));
        }
        Case {
            m,
            k,
            n,
            gap,
            weight,
            tiles,
            x,
            residual: Some(rng.floats(n * (m + gap))),
            scale: Some(rng.floats(m)),
            bias: Some(rng.floats(m)),
            clamp: [-0.75, 1.5],
        }
    }

    fn run(&self, run: Run<T>, rows: Range<usize>) -> Vec<f32> {
        self.run_vectors(run, rows, 0..self.n)
    }

    fn run_vectors(&self, run: Run<T>, rows: Range<usize>, vectors: Range<usize>) -> Vec<f32> {
        let stride = self.m + self.gap;
        let mut out = vec![UNTOUCHED; self.n * stride];
        let at = vectors.start * stride;
        let gemv = Gemv {
            weight: Tiles::new(self.m, self.k, &self.tiles).unwrap(),
            rows: (rows.start, rows.end),
            x: self.x[vectors.start * (self.k + self.gap)..].as_ptr(),
            x_stride: self.k + self.gap,
            n: vectors.len(),
            out: out[at..].as_mut_ptr(),
            out_stride: stride,
            residual: self.residual.as_ref().map_or(std::ptr::null(), |residual| residual[at..].as_ptr()),
            epilogue: Epilogue {
                scale: self.scale.as_deref(),
                bias: self.bias.as_deref(),
                clamp: self.clamp,
            },
        };
        // SAFETY: `for_each_impl` gives kernels of tiers this processor has; the slices have the shapes named.
        unsafe { run(&gemv) };
        out
    }

    /// Compares with the exact product; what is not the kernel's must be as it was.
    fn check(&self, out: &[f32], rows: Range<usize>, what: &str) {
        let stride = self.m + self.gap;
        for (at, &got) in out.iter().enumerate() {
            let (v, r) = (at / stride, at % stride);
            if !rows.contains(&r) {
                assert_eq!(got, UNTOUCHED, "{what}: row {r} of vector {v} is outside {rows:?}");
                continue;
            }
            let (mut sum, mut magnitude) = (0.0, 0.0);
            for k in 0..self.k {
                let w: f32 = self.weight[r * self.k + k].into();
                let term = f64::from(w) * f64::from(self.x[v * (self.k + self.gap) + k]);
                sum += term;
                magnitude += term.abs();
            }
            let scale = self.scale.as_ref().map_or(1.0, |scale| f64::from(scale[r]));
            let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[r]));
            let residual = self.residual.as_ref().map_or(0.0, |residual| f64::from(residual[at]));
            let [lo, hi] = self.clamp.map(f64::from);
            let want = (sum * scale + bias + residual).clamp(lo, hi);
            let bound = sum_bound(self.k + 3, magnitude * scale.abs() + bias.abs() + residual.abs());
            let error = (f64::from(got) - want).abs();
            assert!(error <= bound, "{what}: vector {v}, row {r} is {got}, not {want} (± {bound:e})");
        }
    }
}

/// Every test, for one type of weight.
macro_rules! tests {
    ($name:ident, $type:ty, $table:ident, $make:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn every_size_agrees() {
                let mut rng = Rng::new(1);
                for m in [1, 15, 16, 17, 33, 64, 150, 257] {
                    for k in [0, 1, 2, 7, 64, 255, 256, 257] {
                        for n in [1, 2, 5] {
                            let case = Case::<$type>::new(&mut rng, $make, m, k, n, 0);
                            for_each_impl($table, |tier, run| {
                                case.check(&case.run(run, 0..m), 0..m, &format!("{tier}, {m}x{k}, {n}"));
                            });
                        }
                    }
                }
            }

            #[test]
            fn a_weight_that_no_cache_holds_agrees() {
                let mut rng = Rng::new(9);
                let case = Case::<$type>::new(&mut rng, $make, 250, 17_000, 1, 0);
                for_each_impl($table, |tier, run| {
                    let out = case.run(run, 0..250);
                    case.check(&out, 0..250, &format!("{tier}"));
                });
            }

            #[test]
            fn every_number_of_vectors_agrees() {
                let mut rng = Rng::new(2);
                for n in (1..=BATCH).chain([9, 17, 40]) {
                    for gap in [0, 1, 16] {
                        let case = Case::<$type>::new(&mut rng, $make, 135, 33, n, gap);
                        for_each_impl($table, |tier, run| {
                            case.check(&case.run(run, 0..135), 0..135, &format!("{tier}, {n} vectors"));
                        });
                    }
                }
            }

            #[test]
            fn each_part_of_an_epilogue_may_be_absent() {
                let mut rng = Rng::new(3);
                for part in 0..16 {
                    let mut case = Case::<$type>::new(&mut rng, $make, 20, 12, 3, 2);
                    case.scale = case.scale.filter(|_| part & 1 != 0);
                    case.bias = case.bias.filter(|_| part & 2 != 0);
                    case.residual = case.residual.filter(|_| part & 4 != 0);
                    case.clamp = if part & 8 == 0 { Epilogue::NONE.clamp } else { [0.0, 0.5] };
                    for_each_impl($table, |tier, run| {
                        case.check(&case.run(run, 0..20), 0..20, &format!("{tier}, parts {part:04b}"));
                    });
                }
            }

            #[test]
            fn a_range_of_rows_leaves_the_others_alone() {
                let mut rng = Rng::new(4);
                let case = Case::<$type>::new(&mut rng, $make, 310, 20, 4, 3);
                for rows in [0..0, 0..16, 16..48, 160..310, 304..310] {
                    for_each_impl($table, |tier, run| {
                        case.check(&case.run(run, rows.clone()), rows.clone(), &format!("{tier}, {rows:?}"));
                    });
                }
            }

            /// Threads cut the rows, and a batch the vectors, as they come: no cut may show in the result.
            #[test]
            fn bits_do_not_depend_on_the_cut() {
                let bits = |out: &[f32]| out.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                let mut rng = Rng::new(5);
                let (m, n) = (150, BATCH);
                let case = Case::<$type>::new(&mut rng, $make, m, 600, n, 0);
                for_each_impl($table, |tier, run| {
                    let whole = case.run(run, 0..m);
                    for from in 0..n {
                        for to in from + 1..=n {
                            let cut = case.run_vectors(run, 0..m, from..to);
                            let part = from * m..to * m;
                            assert_eq!(bits(&cut[part.clone()]), bits(&whole[part]), "{tier}: {from}..{to}");
                        }
                    }
                    for cut in (16..m).step_by(16) {
                        let (top, bottom) = (case.run(run, 0..cut), case.run(run, cut..m));
                        for v in 0..n {
                            let (a, b) = (v * m, (v + 1) * m);
                            assert_eq!(bits(&top[a..a + cut]), bits(&whole[a..a + cut]), "{tier}: ..{cut}");
                            assert_eq!(
                                bits(&bottom[a + cut..b]),
                                bits(&whole[a + cut..b]),
                                "{tier}: {cut}.."
                            );
                        }
                    }
                });
            }

            #[test]
            fn nan_and_infinity_pass_through_a_clamp() {
                let mut rng = Rng::new(6);
                let mut case = Case::<$type>::new(&mut rng, $make, 17, 4, 3, 0);
                (case.scale, case.bias, case.residual) = (None, None, None);
                case.clamp = [0.0, 6.0];
                case.x[1] = f32::NAN;
                case.x[4] = f32::INFINITY;
                for_each_impl($table, |tier, run| {
                    let out = case.run(run, 0..17);
                    for r in 0..17 {
                        assert!(out[r].is_nan(), "{tier}: row {r} is {}", out[r]);
                        let weight: f32 = case.weight[r * 4].into();
                        assert_eq!(out[17 + r], if weight > 0.0 { 6.0 } else { 0.0 }, "{tier}: row {r}");
                        assert!((0.0..=6.0).contains(&out[34 + r]), "{tier}: row {r}");
                    }
                });
            }

            #[test]
            fn a_residual_may_be_the_output() {
                let mut rng = Rng::new(7);
                let case = Case::<$type>::new(&mut rng, $make, 37, 9, 2, 0);
                for_each_impl($table, |tier, run| {
                    let mut out = case.residual.clone().unwrap();
                    let gemv = Gemv {
                        weight: Tiles::new(37, 9, &case.tiles).unwrap(),
                        rows: (0, 37),
                        x: case.x.as_ptr(),
                        x_stride: 9,
                        n: 2,
                        out: out.as_mut_ptr(),
                        out_stride: 37,
                        residual: out.as_ptr(),
                        epilogue: Epilogue {
                            scale: case.scale.as_deref(),
                            bias: case.bias.as_deref(),
                            clamp: case.clamp,
                        },
                    };
                    // SAFETY: as in `run_vectors`.
                    unsafe { run(&gemv) };
                    assert_eq!(out, case.run(run, 0..37), "{tier}");
                });
            }
        }
    };
}

tests!(float32, f32, TABLE_F32, |value| value);
tests!(float16, f16, TABLE_F16, f16::from_f32);

/// Every half but the NaNs is the value it names.
#[test]
fn halves_convert_exactly() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|half| !half.is_nan()).collect();
    let m = halves.len();
    let tiles = tile(m, 1, &halves);
    let one = 1.0;
    for_each_impl(TABLE_F16, |tier, run| {
        let mut out = vec![0.0; m];
        let gemv = Gemv {
            weight: Tiles::new(m, 1, &tiles).unwrap(),
            rows: (0, m),
            x: &raw const one,
            x_stride: 1,
            n: 1,
            out: out.as_mut_ptr(),
            out_stride: m,
            residual: std::ptr::null(),
            epilogue: Epilogue::NONE,
        };
        // SAFETY: as in `run_vectors`.
        unsafe { run(&gemv) };
        for (got, half) in out.iter().zip(&halves) {
            assert_eq!(*got, half.to_f32(), "{tier}: {half:?}");
        }
    });
}

#[test]
fn a_half_that_is_no_number_makes_none() {
    let tiles = tile(3, 1, &[f16::NAN, f16::from_bits(0xfc01), f16::ONE]);
    let one = 1.0;
    for_each_impl(TABLE_F16, |tier, run| {
        let mut out = [0.0; 3];
        let gemv = Gemv {
            weight: Tiles::new(3, 1, &tiles).unwrap(),
            rows: (0, 3),
            x: &raw const one,
            x_stride: 1,
            n: 1,
            out: out.as_mut_ptr(),
            out_stride: 3,
            residual: std::ptr::null(),
            epilogue: Epilogue { clamp: [-1.0, 1.0], ..Epilogue::NONE },
        };
        // SAFETY: as in `run_vectors`.
        unsafe { run(&gemv) };
        assert!(out[0].is_nan() && out[1].is_nan() && out[2] == 1.0, "{tier}: {out:?}");
    });
}
