//! The same product for *fours*: four columns of a row, the first a multiple of four, side by side.
//!
//! An index names four elements of `x` that lie together, so the weight is read as it is stored: a row at a time, a four an
//! addition. Tiers that read single values [`Packed`](super::Packed) do so with fours too, and have no kernel here: a row of
//! a block is short, and a processor that guesses where each ends is often wrong. The contract is that of [`spmv_f32`](super); `W` is `SparseRows` of `[T; 4]`, whose columns are counted in fours,
//! and `x` has four times as many elements. In a stored four a zero weight is multiplied.

use half::f16;

use super::RunRows;
use crate::isa::Tier;
use crate::kernels::Impl;

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

macro_rules! table {
    ($get:ident) => {
        &[
            #[cfg(target_arch = "aarch64")]
            Impl { tier: Tier::Neon, get: neon::$get },
            Impl { tier: Tier::Scalar, get: scalar::$get },
        ]
    };
}

/// Kernels for float32 values.
pub static TABLE_F32: &[Impl<RunRows<[f32; 4]>>] = table!(get_f32);

/// Kernels for float16 values.
pub static TABLE_F16: &[Impl<RunRows<[f16; 4]>>] = table!(get_f16);

/// Kernels for int8 values; the factor of a row is the epilogue's `scale`.
pub static TABLE_I8: &[Impl<RunRows<[i8; 4]>>] = table!(get_i8);

#[cfg(test)]
#[allow(unsafe_code, reason = "kernels take pointers")]
mod tests {
    use super::super::{BATCH, Call};
    use super::*;
    use crate::kernels::strip::Epilogue;
    use crate::testing::{Rng, Value, for_each_impl, product_of};
    use crate::weight::{Matrix, TILE, Unit, Values, units};

    /// A share of the fours is zero, and of the others a tenth of the values.
    fn random<T: Value>(rng: &mut Rng, m: usize, k: usize, block: usize, zeros: f64) -> Matrix {
        let mut rows = rng.floats(m * k);
        for four in rows.chunks_mut(4) {
            if (rng.below(1 << 20) as f64) < zeros * f64::from(1 << 20) {
                four.fill(0.0);
            } else if rng.below(5) < 2 {
                four[rng.below(4)] = 0.0;
            }
        }
        let rows: Vec<T> = rows.into_iter().map(T::from_unit).collect();
        let unit = (Unit::FOUR, block);
        let (counts, indices, values) = units(m, k, unit, &rows).unwrap();
        Matrix::sparse((m, k, 1), unit, counts, indices, Values::copy(&values), None).unwrap()
    }

    struct Case<'a> {
        n: usize,
        x: &'a [f32],
        residual: Option<&'a [f32]>,
        epilogue: Epilogue<'a>,
    }

    fn run<T: Value>(run: RunRows<[T; 4]>, w: &Matrix, case: &Case, cut: usize) -> Vec<f32> {
        let (m, k) = (w.m(), w.k());
        let mut out = vec![7.0; case.n * m];
        for tiles in [(0, cut), (cut, m.div_ceil(TILE))] {
            let call = Call {
                weight: w.fours::<T>(),
                tiles,
                n: case.n,
                x: case.x.as_ptr(),
                x_stride: k,
                out: out.as_mut_ptr(),
                out_stride: m,
                residual: case.residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
                epilogue: case.epilogue,
            };
            // SAFETY: the table's `get` gave the kernel; x, out and residual have their exact sizes.
            unsafe { run(&call) };
        }
        out
    }

    fn oracle<T: Value>(table: &[Impl<RunRows<[T; 4]>>]) {
        for_each_impl(table, |tier, kernel| {
            let mut rng = Rng::new(1);
            for zeros in [0.0, 0.5, 0.9, 1.0] {
                for m in [1, 15, 16, 17, 33, 130] {
                    for k in [4, 8, 12, 64, 252, 256, 260, 600] {
                        let block = [256, 128, 64][rng.below(3)];
                        let w = random::<T>(&mut rng, m, k, block, zeros);
                        let dense: Vec<f32> = w.to_rows::<T>().iter().map(|value| value.float()).collect();
                        let n = 1 + rng.below(BATCH);
                        let (x, residual) = (rng.floats(n * k), rng.floats(n * m));
                        let (scale, bias) = (rng.floats(m), rng.floats(m));
                        let epilogue = Epilogue {
                            scale: [None, Some(&*scale)][rng.below(2)],
                            bias: [None, Some(&*bias)][rng.below(2)],
                            clamp: [Epilogue::NONE.clamp, [0.0, 0.5]][rng.below(2)],
                        };
                        let residual = [None, Some(&*residual)][rng.below(2)];
                        let case = Case { n, x: &x, residual, epilogue };
                        let out = run(kernel, &w, &case, m.div_ceil(TILE) / 2);
                        for (at, &got) in out.iter().enumerate() {
                            let (s, r) = (at / m, at % m);
                            let (y, bound) = product_of(
                                dense[r * k..][..k].iter().copied(),
                                |c| x[s * k + c],
                                (r, &epilogue),
                                residual.map(|residual| residual[at]),
                            );
                            let off = (f64::from(got) - y).abs();
                            assert!(off <= bound, "{tier} {m} x {k}, row {r}: {got}, expected {y}");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn float32_matches_the_formula() {
        oracle(TABLE_F32);
    }

    #[test]
    fn float16_matches_the_formula() {
        oracle(TABLE_F16);
    }

    #[test]
    fn int8_matches_the_formula() {
        oracle(TABLE_I8);
    }

    #[test]
    fn every_batch_and_cut_gives_the_same_bits() {
        for_each_impl(TABLE_F32, |tier, kernel| {
            let mut rng = Rng::new(2);
            let w = random::<f32>(&mut rng, 70, 600, 256, 0.8);
            let x = rng.floats(BATCH * 600);
            let case = Case { n: BATCH, x: &x, residual: None, epilogue: Epilogue::NONE };
            let whole = run(kernel, &w, &case, 0);
            for n in 1..=BATCH {
                let from = BATCH - n;
                let out = run(kernel, &w, &Case { n, x: &x[from * 600..], ..case }, n % 5);
                let same = out.iter().zip(&whole[from * 70..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{tier} n {n}");
            }
        });
    }

    #[test]
    fn a_column_without_a_four_does_not_count() {
        for_each_impl(TABLE_F32, |tier, kernel| {
            let mut rows = vec![0.0f32; 3 * 12];
            (rows[12 + 5], rows[24 + 8]) = (2.0, 1.0);
            let unit = (Unit::FOUR, 256);
            let (counts, indices, values) = units(3, 12, unit, &rows).unwrap();
            let w = Matrix::sparse((3, 12, 1), unit, counts, indices, Values::copy(&values), None).unwrap();
            let mut x = [f32::NAN; 12];
            x[4..8].fill(1.5);
            let case = Case { n: 1, x: &x, residual: None, epilogue: Epilogue::NONE };
            let out = run(kernel, &w, &case, 0);
            assert!(out[..2] == [0.0, 3.0] && out[2].is_nan(), "{tier}: {out:?}");
        });
    }
}
