//! `spmv_f32`: a sparse weight times one to eight float32 vectors, `out[s][r] = epilogue(Σ_k W[r][k] · x[s][k])`.
//!
//! With so few columns there is nothing to put in the lanes but rows, and each lane wants another element of `x`. How a
//! tier gets them decides the form of the weight it reads, and its [`Kernel`] says which: the [`SparseRows`] as they are
//! stored, or [`Packed`], which then replaces them.
//!
//! - `x` and `out` are plain: `n` vectors of exactly `k` and `m` elements. Nothing is read or written past a vector's end.
//! - Work is cut into *tiles* of sixteen rows; which rows these are is the form's affair. A call computes some tiles.
//! - A sum's order is fixed by the weight: neither `n` nor the cut into calls changes a bit of any element. Different
//!   tiers may round differently.
//! - A weight that is not stored is not multiplied: a NaN or an infinity of `x` reaches every row that has a non-zero in its
//!   column, and none that stores nothing there. Whether it reaches one that stores a zero, which a converter does not write,
//!   is the tier's affair.

use half::f16;

use super::Impl;
use super::strip::Epilogue;
use crate::isa::Tier;
use crate::weight::{SparseRows, TILE};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod fours;
mod scalar;

pub use super::packed::Packed;

/// The most vectors of a call.
pub const BATCH: usize = 8;

/// One call: some tiles of a weight, all vectors.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a, W> {
    /// The weight, in the form the kernel reads.
    pub weight: W,
    /// Tiles to compute, `[start, end)` of `⌈m/16⌉`.
    pub tiles: (usize, usize),
    /// Vectors, `1..=BATCH`.
    pub n: usize,
    /// Element 0 of the first vector; each has `k`.
    pub x: *const f32,
    /// Elements from one vector to the next.
    pub x_stride: usize,
    /// Row 0 of the first result; each has `m`.
    pub out: *mut f32,
    /// Elements from one result to the next.
    pub out_stride: usize,
    /// An addend laid out as `out`, or null; may be `out` itself.
    pub residual: *const f32,
    /// What is done to a finished sum.
    pub epilogue: Epilogue<'a>,
}

/// The code of a tier that reads weights as they are stored.
pub type RunRows<T> = for<'a> unsafe fn(&Call<'a, SparseRows<'a, T>>);

/// The code of a tier that reads packed weights.
pub type RunPacked<T> = for<'a> unsafe fn(&Call<'a, &'a Packed<T>>);

/// A kernel, by the form of weight it reads.
///
/// # Safety
/// Whoever calls one holds the tier's token; the pointers of the [`Call`] are valid for `n` vectors of `k` and `m`
/// elements; nothing else touches the rows of its tiles in `out` meanwhile; and scale and bias have `m` elements.
#[derive(Clone, Copy, Debug)]
pub enum Kernel<T> {
    /// Reads the rows as they are stored; tile `t` is the rows from `16 * t`.
    Rows(RunRows<T>),
    /// Reads the weight packed once, at load, and needs the rows no more.
    Packed {
        /// What [`Packed::new`] is given: columns of a window, and the column of a lane that rests.
        window: (usize, u8),
        /// The code.
        run: RunPacked<T>,
    },
}

/// Kernels for float32 values.
pub static TABLE_F32: &[Impl<Kernel<f32>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_f32 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_f32 },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get_f32 },
    Impl { tier: Tier::Scalar, get: scalar::get_f32 },
];

/// Kernels for float16 values.
pub static TABLE_F16: &[Impl<Kernel<f16>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_f16 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_f16 },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get_f16 },
    Impl { tier: Tier::Scalar, get: scalar::get_f16 },
];

/// Kernels for int8 values; the factor of a row is the epilogue's `scale`.
pub static TABLE_I8: &[Impl<Kernel<i8>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_i8 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_i8 },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get_i8 },
    Impl { tier: Tier::Scalar, get: scalar::get_i8 },
];

impl<W> Call<'_, W> {
    /// Vector `s`.
    ///
    /// # Safety
    /// What [`Kernel`] asks; `s` is below `n`.
    #[allow(unsafe_code, reason = "the call's pointers")]
    unsafe fn vector(&self, s: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.x.add(s * self.x_stride) }
    }

    /// Does to a finished sum what is done to it, and stores it.
    ///
    /// # Safety
    /// What [`Kernel`] asks; `s` is below `n`, and `r` a row of one of the call's tiles.
    #[allow(unsafe_code, reason = "the call's pointers")]
    #[inline]
    unsafe fn finish(&self, s: usize, r: usize, sum: f32) {
        let Epilogue { scale, bias, clamp: [low, high] } = self.epilogue;
        let mut y = sum;
        if let Some(scale) = scale {
            y *= scale[r];
        }
        if let Some(bias) = bias {
            y += bias[r];
        }
        let at = s * self.out_stride + r;
        if !self.residual.is_null() {
            // SAFETY: the caller's promise.
            y += unsafe { *self.residual.add(at) };
        }
        // Comparisons with NaN are false, so a NaN stays one.
        y = if y < low { low } else { y };
        y = if y > high { high } else { y };
        // SAFETY: the caller's promise.
        unsafe { *self.out.add(at) = y };
    }
}

/// The entries of a tier that runs the packed form by its `run`: type of the values, names, and how a step's are widened.
#[cfg(target_arch = "x86_64")]
macro_rules! packed_kernels {
    ($token:ident, #$feature:tt, { $($t:ty, $run:ident, $get:ident, $widen:expr;)+ }) => {$(
        /// # Safety
        /// What [`Kernel`] asks.
        #$feature
        unsafe fn $run(call: &Call<'_, &Packed<$t>>) {
            // SAFETY: the caller's promise; a vector of values is widened at a time.
            unsafe { run(call, $widen) }
        }

        pub(super) fn $get() -> Option<Kernel<$t>> {
            $token::detect().map(|_| Kernel::Packed { window: (WINDOW, REST), run: $run as RunPacked<$t> })
        }
    )+};
}
#[cfg(target_arch = "x86_64")]
use packed_kernels;

/// Sums of a tile for each vector, of which a call uses the first `n`.
type Sums = [[f32; TILE]; BATCH];

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, reason = "kernels take pointers")]

    use super::*;
    use crate::testing::{Rng, Value, for_each_impl, product_of};
    use crate::weight::{Matrix, Unit, Values, sparse};

    fn sparse_matrix<T: Value>(m: usize, k: usize, block: usize, rows: &[T]) -> Matrix {
        let (counts, indices, values) = sparse(m, k, block, rows).unwrap();
        Matrix::sparse((m, k, 1), (Unit::ONE, block), counts, indices, Values::copy(&values), None).unwrap()
    }

    fn random_matrix<T: Value>(rng: &mut Rng, m: usize, k: usize, block: usize, zeros: f64) -> Matrix {
        let rows: Vec<T> = rng.sparse_floats(m * k, zeros).into_iter().map(T::from_unit).collect();
        // A full row of 256 does not fit its count.
        sparse_matrix(m, k, if zeros < 0.1 { block.min(255) } else { block }, &rows)
    }

    /// A kernel with the weight in its form.
    enum Ready<'a, T> {
        Rows(RunRows<T>, SparseRows<'a, T>),
        Packed(RunPacked<T>, Packed<T>),
    }

    fn ready<T: Value>(kernel: Kernel<T>, w: &Matrix) -> Ready<'_, T> {
        match kernel {
            Kernel::Rows(run) => Ready::Rows(run, w.rows()),
            Kernel::Packed { window, run } => Ready::Packed(run, Packed::new(&w.rows(), window)),
        }
    }

    /// What a call takes besides the weight.
    #[derive(Clone, Copy)]
    struct Case<'a> {
        m: usize,
        k: usize,
        n: usize,
        /// `n` vectors of exactly `k`, one behind the other.
        x: &'a [f32],
        residual: Option<&'a [f32]>,
        epilogue: Epilogue<'a>,
    }

    /// Runs the calls that `cuts` divides the tiles into; the buffers end where the last vector does.
    fn run<T: Value>(kernel: &Ready<'_, T>, case: &Case, cuts: &[usize]) -> Vec<f32> {
        assert_eq!(case.x.len(), case.n * case.k);
        let mut out = vec![7.0; case.n * case.m];
        let mut start = 0;
        for &end in cuts.iter().chain([&case.m.div_ceil(TILE)]) {
            macro_rules! call {
                ($weight:expr) => {
                    Call {
                        weight: $weight,
                        tiles: (start, end),
                        n: case.n,
                        x: case.x.as_ptr(),
                        x_stride: case.k,
                        out: out.as_mut_ptr(),
                        out_stride: case.m,
                        residual: case.residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
                        epilogue: case.epilogue,
                    }
                };
            }
            // SAFETY: the table's `get` gave the kernel; x, out and residual have their exact sizes.
            unsafe {
                match kernel {
                    Ready::Rows(run, rows) => run(&call!(rows.clone())),
                    Ready::Packed(run, packed) => run(&call!(packed)),
                }
            }
            start = end;
        }
        out
    }

    /// Compares with the formula in float64.
    fn check<T: Value>(tier: Tier, w: &Matrix, case: &Case, out: &[f32]) {
        let dense = w.to_rows::<T>();
        for s in 0..case.n {
            for r in 0..case.m {
                let weights = dense[r * case.k..][..case.k].iter().map(|value| value.float());
                let residual = case.residual.map(|residual| residual[s * case.m + r]);
                let (y, bound) =
                    product_of(weights, |c| case.x[s * case.k + c], (r, &case.epilogue), residual);
                let got = out[s * case.m + r];
                assert!(
                    (f64::from(got) - y).abs() <= bound,
                    "{tier}: {}x{} n {}: element ({s}, {r}) is {got}, expected {y} within {bound:e}",
                    case.m,
                    case.k,
                    case.n
                );
            }
        }
    }

    fn oracle<T: Value>(table: &[Impl<Kernel<T>>]) {
        for_each_impl(table, |tier, kernel| {
            let mut rng = Rng::new(1);
            for zeros in [0.0, 0.05, 0.5, 0.9, 1.0] {
                for m in [1, 15, 16, 17, 33, 130] {
                    for k in [0, 1, 2, 15, 63, 64, 65, 127, 128, 129, 255, 256, 257, 600] {
                        let block = [256, 128, 256, 100][rng.below(4)];
                        let w = random_matrix::<T>(&mut rng, m, k, block, zeros);
                        let n = 1 + rng.below(BATCH);
                        let x = rng.floats(n * k);
                        let residual = rng.floats(n * m);
                        let (scale, bias) = (rng.floats(m), rng.floats(m));
                        let case = Case {
                            m,
                            k,
                            n,
                            x: &x,
                            residual: [None, Some(&*residual)][rng.below(2)],
                            epilogue: Epilogue {
                                scale: [None, Some(&*scale)][rng.below(2)],
                                bias: [None, Some(&*bias)][rng.below(2)],
                                clamp: [Epilogue::NONE.clamp, [0.0, 0.5]][rng.below(2)],
                            },
                        };
                        let out = run(&ready(kernel, &w), &case, &[m.div_ceil(TILE) / 2]);
                        check::<T>(tier, &w, &case, &out);
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
            for k in [40, 601] {
                let m = 70;
                let w = random_matrix::<f32>(&mut rng, m, k, 256, 0.8);
                let kernel = ready(kernel, &w);
                let (x, bias) = (rng.floats(BATCH * k), rng.floats(m));
                let epilogue = Epilogue { scale: None, bias: Some(&bias), clamp: [-2.0, 2.0] };
                let case = Case { m, k, n: BATCH, x: &x, residual: None, epilogue };
                let whole = run(&kernel, &case, &[]);
                check::<f32>(tier, &w, &case, &whole);
                for n in 1..=BATCH {
                    for cuts in [&[][..], &[1], &[2, 4], &[1, 2, 3, 4]] {
                        // The last vectors, so that one is not where it was.
                        let from = BATCH - n;
                        let case = Case { n, x: &x[from * k..], ..case };
                        let out = run(&kernel, &case, cuts);
                        let same =
                            out.iter().zip(&whole[from * m..]).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{tier} n {n} cuts {cuts:?}");
                    }
                }
            }
        });
    }

    #[test]
    fn what_is_not_stored_does_not_count() {
        for_each_impl(TABLE_F32, |tier, kernel| {
            // Rows 0 and 2 are empty; row 1 has one weight, beside columns that are not numbers.
            for k in [5, 200] {
                let mut rows = vec![0.0; 3 * k];
                rows[k + 2] = 2.0;
                let w = sparse_matrix::<f32>(3, k, 256, &rows);
                let kernel = ready(kernel, &w);
                let mut x = vec![f32::NAN; k];
                (x[2], x[3]) = (1.5, f32::INFINITY);
                let bias = [1.0, 0.0, -1.0];
                let epilogue = Epilogue { scale: None, bias: Some(&bias), ..Epilogue::NONE };
                let case = Case { m: 3, k, n: 1, x: &x, residual: None, epilogue };
                assert_eq!(run(&kernel, &case, &[]), [1.0, 3.0, -1.0], "{tier}");
                // Where a weight meets one, it shows, through a clamp as in torch.
                let x = vec![f32::NAN; k];
                let clamp = Epilogue { clamp: [0.0, 6.0], ..Epilogue::NONE };
                let out = run(&kernel, &Case { x: &x, epilogue: clamp, ..case }, &[]);
                assert!(out[0] == 0.0 && out[1].is_nan() && out[2] == 0.0, "{tier}");
            }
        });
    }

    #[test]
    fn packing_reports_its_bytes() {
        let mut rng = Rng::new(3);
        let w = random_matrix::<i8>(&mut rng, 64, 512, 256, 0.9);
        let rows = w.rows::<i8>();
        let packed = Packed::new(&rows, (64, 0));
        assert_eq!((packed.m(), packed.k(), packed.nnz()), (64, 512, rows.nnz()));
        // A value and a column for each lane of a step, not all of which hold a non-zero.
        assert!(packed.bytes() > 2 * rows.nnz() && packed.bytes() < 4 * rows.nnz(), "{}", packed.bytes());
    }
}
