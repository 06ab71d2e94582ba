//! `spmm_f32`: a sparse weight over a strip of float32 columns, the contract of [`strip`](super::strip).
//!
//! Columns lie in the SIMD lanes; a stored weight is broadcast and multiplied with one row of the panel, whatever
//! its place in the matrix, so arbitrary sparsity costs one index byte a non-zero and no padding. Values are float32,
//! float16 or int8; the narrow ones are widened a group of sixteen rows at a time, once a strip, and an int8 row's
//! factor is the epilogue's.
//!
//! - A [`Strip::block`] is one whole block of the [`SparseRows`]. The panel is either packed (`panel_stride` a multiple
//!   of 16) or the activation read in place; a stride of a large power of two makes the rows of a block share few cache
//!   sets, and is better packed.
//! - A sum takes its non-zeros in stored order, one block after the other: neither `n`, nor where a strip or a range of
//!   rows was cut, changes a bit of any element. Different tiers may round differently.
//! - A weight that is not stored is not multiplied: a NaN or an infinity of `x` reaches only the rows that have a
//!   non-zero in its column.

use half::f16;

use super::Impl;
use super::strip::{Strip, StripKernel};
use crate::isa::Tier;
use crate::weight::SparseRows;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod cost;
mod scalar;

pub(super) use scalar::widen;

/// The code of one tier, for values of one type.
pub type Run<T> = for<'a> unsafe fn(&Strip<'a, SparseRows<'a, T>>);

/// Kernels for float32 values.
pub static TABLE_F32: &[Impl<StripKernel<Run<f32>>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_f32 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_f32 },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get_f32 },
    Impl { tier: Tier::Scalar, get: scalar::get_f32 },
];

/// Kernels for float16 values.
pub static TABLE_F16: &[Impl<StripKernel<Run<f16>>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_f16 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_f16 },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get_f16 },
    Impl { tier: Tier::Scalar, get: scalar::get_f16 },
];

/// Kernels for int8 values; the factor of a row is the epilogue's `scale`.
pub static TABLE_I8: &[Impl<StripKernel<Run<i8>>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_i8 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_i8 },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get_i8 },
    Impl { tier: Tier::Scalar, get: scalar::get_i8 },
];

/// Room for the widened values of a group: sixteen rows of at most 255 non-zeros.
type Scratch = [std::mem::MaybeUninit<f32>; 16 * 256];

/// The strip loop of a tier, written over what its file defines: the type `Vector` of `LANES` floats with `zero`,
/// `splat`, `load`, `store`, `fma`, `mul`, `add` and `clamp`, and `widen_f16` and `widen_i8` from a slice to as many
/// floats, which may write up to the next multiple of [`TILE`](super::strip::TILE).
///
/// `vectors` lists the widths a strip may have; the last is the kernel's `nr`. Non-zeros are dealt to `sums` independent
/// sums (a divisor of four), as many as keep the multiply-add units busy across their latency even in a narrow strip.
macro_rules! strip_kernels {
    (token: $token:expr, vectors: [$($v:literal)+], sums: $sums:literal, kb: $kb:literal, $(#[$feature:meta])?) => {
        /// Rows `rows` of one group over `V` vectors of columns.
        ///
        /// # Safety
        /// The pointers of `s` are valid as [`StripKernel`] says; `index` and `value` have as many elements as `counts`,
        /// one for each of `rows`, add up to, and every index is a row of the panel.
        $(#[$feature])?
        #[inline]
        unsafe fn group<const V: usize, T>(
            s: &Strip<'_, SparseRows<'_, T>>,
            rows: Range<usize>,
            counts: &[u8],
            mut index: *const u8,
            mut value: *const f32,
        ) {
            for (r, &count) in rows.zip(counts) {
                // SAFETY: `r` is a row of `out`; each of its vectors starts below `n`, so ends within the row.
                let out = unsafe { s.out.add(r * s.out_stride) };
                let mut sums = [[zero(); V]; $sums];
                let sums_of = sums.len();
                if !s.first {
                    for (v, sum) in sums[0].iter_mut().enumerate() {
                        // SAFETY: as above; the first block has written them.
                        *sum = unsafe { load(out.add(v * LANES)) };
                    }
                }
                let count = usize::from(count);
                for _ in 0..count / 4 {
                    // One load for four indices: this loop is bound by its loads.
                    // SAFETY: the row has four more indices and values.
                    let columns = unsafe { index.cast::<[u8; 4]>().read() };
                    for (i, column) in columns.into_iter().enumerate() {
                        // SAFETY: the caller vouches for the index, the value and the panel's row that the index names.
                        unsafe {
                            let x = s.panel.add(usize::from(column) * s.panel_stride);
                            let w = splat(*value.add(i));
                            for (v, sum) in sums[i % sums_of].iter_mut().enumerate() {
                                *sum = fma(w, load(x.add(v * LANES)), *sum);
                            }
                        }
                    }
                    // SAFETY: at most one past the end.
                    unsafe { (index, value) = (index.add(4), value.add(4)) };
                }
                let rest = count % 4;
                for i in 0..3 {
                    if i < rest {
                        // SAFETY: as above.
                        unsafe {
                            let x = s.panel.add(usize::from(*index.add(i)) * s.panel_stride);
                            let w = splat(*value.add(i));
                            for (v, sum) in sums[i % sums_of].iter_mut().enumerate() {
                                *sum = fma(w, load(x.add(v * LANES)), *sum);
                            }
                        }
                    }
                }
                // SAFETY: at most one past the end.
                unsafe { (index, value) = (index.add(rest), value.add(rest)) };
                let [mut sum, more @ ..] = sums;
                for more in more {
                    for (sum, more) in sum.iter_mut().zip(more) {
                        *sum = add(*sum, more);
                    }
                }
                if s.last {
                    let e = &s.epilogue;
                    if let Some(scale) = e.scale {
                        sum = sum.map(|y| mul(y, splat(scale[r])));
                    }
                    if let Some(bias) = e.bias {
                        sum = sum.map(|y| add(y, splat(bias[r])));
                    }
                    if !s.residual.is_null() {
                        for (v, sum) in sum.iter_mut().enumerate() {
                            // SAFETY: a residual is readable wherever `out` is.
                            *sum = add(*sum, unsafe { load(s.residual.add(r * s.out_stride + v * LANES)) });
                        }
                    }
                    sum = sum.map(|y| clamp(y, e.clamp));
                }
                for (v, sum) in sum.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { store(out.add(v * LANES), *sum) };
                }
            }
        }

        /// All rows of the strip; `widen` gives a group's values as floats, in the scratch or where they lie.
        ///
        /// # Safety
        /// What [`StripKernel`] asks.
        $(#[$feature])?
        #[inline]
        unsafe fn strip<const V: usize, T>(
            s: &Strip<'_, SparseRows<'_, T>>,
            widen: impl Fn(&[T], &mut Scratch) -> *const f32,
        ) {
            debug_assert!(s.rows.0.is_multiple_of(TILE) && s.n <= V * LANES);
            if s.weight.k() == 0 {
                for r in s.rows().step_by(TILE) {
                    let rows = r..s.rows.1.min(r + TILE);
                    // SAFETY: the caller's promise; no non-zeros.
                    unsafe { group::<V, T>(s, rows, &[0; TILE], std::ptr::null(), std::ptr::null()) };
                }
                return;
            }
            let block = s.weight.at(s.block.0 / s.weight.block());
            debug_assert_eq!(s.block, (block.k0, s.weight.k().min(block.k0 + s.weight.block())));
            let mut scratch: Scratch = [const { MaybeUninit::uninit() }; 16 * 256];
            for r in s.rows().step_by(TILE) {
                let (start, end) = (block.starts[r / TILE] as usize, block.starts[r / TILE + 1] as usize);
                let index = block.indices[start..end].as_ptr();
                let value = widen(&block.values[start..end], &mut scratch);
                let rows = r..s.rows.1.min(r + TILE);
                // SAFETY: the caller's promise; `sparse_starts` has checked that the counts of a group add up to its
                // `end - start` and that indices are columns of the block.
                unsafe { group::<V, T>(s, rows.clone(), &block.counts[rows], index, value) };
            }
        }

        strip_kernels!(@entry f32, run_f32, get_f32, |values, _| values.as_ptr(),
            $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry f16, run_f16, get_f16, |values, scratch| {
            widen_f16(values, scratch);
            scratch.as_ptr().cast()
        }, $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry i8, run_i8, get_i8, |values, scratch| {
            widen_i8(values, scratch);
            scratch.as_ptr().cast()
        }, $token, [$($v)+], $kb, $(#[$feature])?);
    };
    (@entry $t:ty, $run:ident, $get:ident, $widen:expr, $token:expr, [$($v:literal)+], $kb:literal,
     $(#[$feature:meta])?) => {
        /// # Safety
        /// What [`StripKernel`] asks.
        $(#[$feature])?
        unsafe fn $run(s: &Strip<'_, SparseRows<'_, $t>>) {
            // SAFETY: the caller's promise.
            unsafe {
                match s.n.div_ceil(LANES) {
                    $($v => strip::<$v, $t>(s, $widen),)+
                    _ => unreachable!("a strip is at most the kernel's nr wide"),
                }
            }
        }

        pub(super) fn $get() -> Option<StripKernel<Run<$t>>> {
            let widest = [$($v),+].len();
            $token.map(|_| StripKernel { run: $run as Run<$t>, nr: widest * LANES, kb: $kb })
        }
    };
}
use strip_kernels;

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, reason = "kernels take pointers")]

    use super::*;
    use crate::kernels::strip::Epilogue;
    use crate::testing::{Aligned, Rng, for_each_impl, sum_bound};
    use crate::weight::{Matrix, Number, Values, sparse};

    /// A type of stored values, as the tests make and read them.
    trait Value: Number {
        fn from_unit(x: f32) -> Self;
        fn float(self) -> f32;
    }
    impl Value for f32 {
        fn from_unit(x: f32) -> f32 {
            x
        }
        fn float(self) -> f32 {
            self
        }
    }
    impl Value for f16 {
        fn from_unit(x: f32) -> f16 {
            f16::from_f32(x)
        }
        fn float(self) -> f32 {
            self.to_f32()
        }
    }
    impl Value for i8 {
        fn from_unit(x: f32) -> i8 {
            (x * 127.0).round() as i8
        }
        fn float(self) -> f32 {
            f32::from(self)
        }
    }

    /// Sparse rows of a row-major matrix.
    fn sparse_matrix<T: Value>(m: usize, k: usize, block: usize, rows: &[T]) -> Matrix {
        let (counts, indices, values) = sparse(m, k, block, rows).unwrap();
        Matrix::sparse((m, k, 1), block, counts, indices, Values::copy(&values), None).unwrap()
    }

    fn random_matrix<T: Value>(rng: &mut Rng, m: usize, k: usize, block: usize, zeros: f64) -> Matrix {
        let rows: Vec<T> = rng.sparse_floats(m * k, zeros).into_iter().map(T::from_unit).collect();
        // A full row of 256 does not fit its count.
        sparse_matrix(m, k, if zeros < 0.1 { block.min(255) } else { block }, &rows)
    }

    /// What a call takes besides the weight.
    struct Case<'a> {
        rows: (usize, usize),
        n: usize,
        /// Rows of x are this far apart.
        stride: usize,
        x: &'a [f32],
        out_stride: usize,
        residual: Option<&'a [f32]>,
        epilogue: Epilogue<'a>,
    }

    /// Loops over the blocks as a driver does; what a kernel must not touch holds 7.
    fn run<T: Value>(kernel: &StripKernel<Run<T>>, w: &Matrix, case: &Case) -> Aligned<f32> {
        let rows = w.rows::<T>();
        let mut out = Aligned::from(&vec![7.0; w.m() * case.out_stride + 16], 0);
        let (blocks, block) = (rows.blocks(), rows.block());
        for b in 0..blocks {
            let s = Strip {
                weight: rows.clone(),
                rows: case.rows,
                block: (b * block, w.k().min((b + 1) * block)),
                panel: case.x[b * block * case.stride..].as_ptr(),
                panel_stride: case.stride,
                n: case.n,
                out: out.as_mut_ptr(),
                out_stride: case.out_stride,
                residual: case.residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
                epilogue: case.epilogue,
                first: b == 0,
                last: b + 1 == blocks,
            };
            // SAFETY: the table's `get` gave the kernel; x, out and residual have rows of a multiple of 16 floats.
            unsafe { (kernel.run)(&s) };
        }
        out
    }

    /// Compares with the formula in float64, and looks that nothing else was written.
    fn check<T: Value>(tier: Tier, kernel: &StripKernel<Run<T>>, w: &Matrix, case: &Case) {
        let out = run(kernel, w, case);
        let e = &case.epilogue;
        let dense = w.to_rows::<T>();
        for r in 0..w.m() {
            let written = (case.rows.0..case.rows.1).contains(&r);
            for j in 0..case.out_stride {
                let got = out[r * case.out_stride + j];
                if !written || j >= case.n.next_multiple_of(16) {
                    assert_eq!(got, 7.0, "{tier} wrote row {r} column {j}, which is not its own");
                    continue;
                }
                if j >= case.n {
                    continue;
                }
                let (mut sum, mut magnitude, mut terms) = (0.0, 0.0, 3);
                for c in 0..w.k() {
                    let value = dense[r * w.k() + c].float();
                    if value != 0.0 {
                        let product = f64::from(value) * f64::from(case.x[c * case.stride + j]);
                        sum += product;
                        magnitude += product.abs();
                        terms += 1;
                    }
                }
                let scale = f64::from(e.scale.map_or(1.0, |scale| scale[r]));
                let (mut y, mut size) = (scale * sum, scale.abs() * magnitude);
                for addend in
                    [e.bias.map(|bias| bias[r]), case.residual.map(|res| res[r * case.out_stride + j])]
                {
                    y += f64::from(addend.unwrap_or(0.0));
                    size += f64::from(addend.unwrap_or(0.0)).abs();
                }
                y = y.clamp(f64::from(e.clamp[0]), f64::from(e.clamp[1]));
                let bound = sum_bound(terms, size);
                assert!(
                    (f64::from(got) - y).abs() <= bound,
                    "{tier}: {}x{} block {} rows {:?} n {}: element ({r}, {j}) is {got}, expected {y} within {bound:e}",
                    w.m(),
                    w.k(),
                    w.rows::<T>().block(),
                    case.rows,
                    case.n
                );
            }
        }
    }

    fn oracle<T: Value>(table: &[Impl<StripKernel<Run<T>>>]) {
        for_each_impl(table, |tier, kernel| {
            let mut rng = Rng::new(1);
            for zeros in [0.0, 0.05, 0.5, 0.9, 1.0] {
                for m in [1, 15, 16, 17, 33, 130] {
                    for k in [1, 2, 63, 64, 65, 255, 256, 257, 600] {
                        let block = [256, 128, 256, 100][rng.below(4)];
                        let w = random_matrix::<T>(&mut rng, m, k, block, zeros);
                        let n = 1 + rng.below(kernel.nr);
                        let stride = n.next_multiple_of(16) + [0, 16, 80, 3][rng.below(4)];
                        let out_stride = n.next_multiple_of(16) + 16 * rng.below(3);
                        let x = Aligned::from(&rng.floats(k * stride + 16), 0);
                        let residual = rng.floats(m * out_stride);
                        let (scale, bias) = (rng.floats(m), rng.floats(m));
                        let first = rng.below(m.div_ceil(16)) * 16;
                        let last = m.min(first + 16 * (1 + rng.below(9)));
                        let case = Case {
                            rows: [(0, m), (first, last)][rng.below(2)],
                            n,
                            stride,
                            x: &x,
                            out_stride,
                            residual: [None, Some(&*residual)][rng.below(2)],
                            epilogue: Epilogue {
                                scale: [None, Some(&*scale)][rng.below(2)],
                                bias: [None, Some(&*bias)][rng.below(2)],
                                clamp: [Epilogue::NONE.clamp, [0.0, 0.5]][rng.below(2)],
                            },
                        };
                        check(tier, &kernel, &w, &case);
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
    fn every_width_and_cut_gives_the_same_bits() {
        for_each_impl(TABLE_F16, |tier, kernel| {
            let mut rng = Rng::new(2);
            let (m, k, stride) = (37, 300, kernel.nr + 16);
            let w = random_matrix::<f16>(&mut rng, m, k, 256, 0.8);
            let x = Aligned::from(&rng.floats(k * stride + 16), 0);
            let bias = rng.floats(m);
            let epilogue = Epilogue { scale: None, bias: Some(&bias), clamp: [-2.0, 2.0] };
            let whole = Case {
                rows: (0, m),
                n: kernel.nr,
                stride,
                x: &x,
                out_stride: kernel.nr,
                residual: None,
                epilogue,
            };
            check(tier, &kernel, &w, &whole);
            let whole = run(&kernel, &w, &whole);
            for n in 1..=kernel.nr {
                // The first column is not that of the whole strip: lanes, too, are free to move.
                let from = (n * 7) % (kernel.nr - n + 1);
                for rows in [(0, m), (16, 32), (32, m)] {
                    let case = Case {
                        rows,
                        n,
                        stride,
                        x: &x[from..],
                        out_stride: kernel.nr,
                        residual: None,
                        epilogue,
                    };
                    check(tier, &kernel, &w, &case);
                    let out = run(&kernel, &w, &case);
                    for r in rows.0..rows.1 {
                        for j in 0..n {
                            let (a, b) = (out[r * kernel.nr + j], whole[r * kernel.nr + from + j]);
                            assert_eq!(a.to_bits(), b.to_bits(), "{tier} n {n} rows {rows:?} at ({r}, {j})");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn what_is_not_stored_does_not_count() {
        for_each_impl(TABLE_F32, |tier, kernel| {
            // Rows 0 and 2 are empty; row 1 has one weight, beside columns that are not numbers.
            let (k, n) = (5, 20);
            let mut rows = vec![0.0; 3 * k];
            rows[k + 2] = 2.0;
            let w = sparse_matrix::<f32>(3, k, 256, &rows);
            let mut x = Aligned::from(&vec![f32::NAN; k * 32 + 16], 0);
            x[3 * 32..4 * 32].fill(f32::INFINITY);
            x[2 * 32..3 * 32].fill(1.5);
            let bias = [1.0, 0.0, -1.0];
            let epilogue = Epilogue { scale: None, bias: Some(&bias), ..Epilogue::NONE };
            let case = Case { rows: (0, 3), n, stride: 32, x: &x, out_stride: 32, residual: None, epilogue };
            let out = run(&kernel, &w, &case);
            for j in 0..n {
                assert_eq!([out[j], out[32 + j], out[64 + j]], [1.0, 3.0, -1.0], "{tier}");
            }
            // Where a weight meets one, it shows, through a clamp as in torch.
            let x = Aligned::from(&vec![f32::NAN; k * 32 + 16], 0);
            let clamp = Epilogue { clamp: [0.0, 6.0], ..Epilogue::NONE };
            let out = run(&kernel, &w, &Case { x: &x, epilogue: clamp, ..case });
            assert!(out[32..32 + n].iter().all(|y| y.is_nan()), "{tier}");
            assert!(out[..n].iter().all(|&y| y == 0.0), "{tier}");
        });
    }

    #[test]
    fn a_depth_of_zero_leaves_the_epilogue() {
        for_each_impl(TABLE_F32, |tier, kernel| {
            let w = sparse_matrix::<f32>(18, 0, 256, &[]);
            let bias: Vec<f32> = (0..18).map(|r| r as f32).collect();
            let mut out = Aligned::from(&[7.0; 18 * 16], 0);
            let s = Strip {
                weight: w.rows::<f32>(),
                rows: (0, 18),
                block: (0, 0),
                panel: [].as_ptr(),
                panel_stride: 16,
                n: 5,
                out: out.as_mut_ptr(),
                out_stride: 16,
                residual: std::ptr::null(),
                epilogue: Epilogue { scale: None, bias: Some(&bias), clamp: [0.5, 16.5] },
                first: true,
                last: true,
            };
            // SAFETY: as in `run`.
            unsafe { (kernel.run)(&s) };
            for r in 0..18 {
                assert_eq!(out[r * 16..][..5], [(r as f32).clamp(0.5, 16.5); 5], "{tier}");
            }
        });
    }

    #[test]
    fn a_residual_may_be_the_output() {
        for_each_impl(TABLE_I8, |tier, kernel| {
            let mut rng = Rng::new(3);
            let (m, k, n) = (20, 60, kernel.nr - 3);
            let w = random_matrix::<i8>(&mut rng, m, k, 256, 0.7);
            let x = Aligned::from(&rng.floats(k * kernel.nr), 0);
            let before = rng.floats(m * kernel.nr);
            let scale = rng.floats(m);
            let epilogue = Epilogue { scale: Some(&scale), ..Epilogue::NONE };
            let case = Case {
                rows: (0, m),
                n,
                stride: kernel.nr,
                x: &x,
                out_stride: kernel.nr,
                residual: Some(&before),
                epilogue,
            };
            let apart = run(&kernel, &w, &case);
            let mut out = Aligned::from(&before, 0);
            let s = Strip {
                weight: w.rows::<i8>(),
                rows: (0, m),
                block: (0, k),
                panel: x.as_ptr(),
                panel_stride: kernel.nr,
                n,
                out: out.as_mut_ptr(),
                out_stride: kernel.nr,
                residual: out.as_ptr(),
                epilogue,
                first: true,
                last: true,
            };
            // SAFETY: as in `run`; a single block may add to its output in place.
            unsafe { (kernel.run)(&s) };
            for r in 0..m {
                assert_eq!(out[r * kernel.nr..][..n], apart[r * kernel.nr..][..n], "{tier} row {r}");
            }
        });
    }
}
