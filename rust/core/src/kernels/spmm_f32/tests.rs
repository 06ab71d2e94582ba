//! Every entry of every table against the formula in float64.

#![allow(unsafe_code, reason = "kernels take pointers")]

use super::fours;
use super::stacked::*;
use super::*;
use crate::kernels::strip::Epilogue;
use crate::testing::{Aligned, Rng, Value, for_each_impl, product_of};
use crate::weight::{Unit, sparse_starts, units};

/// A matrix, row-major and as sparse rows of `W`.
struct Weight<W> {
    m: usize,
    k: usize,
    dense: Vec<f32>,
    block: usize,
    /// Columns that an index names.
    width: usize,
    counts: Vec<u8>,
    indices: Vec<u8>,
    starts: Vec<u32>,
    values: Vec<W>,
}

impl<T: Value, const H: usize> Weight<[T; H]> {
    /// Stacks of `H` rows of a row-major matrix.
    fn stacks(m: usize, k: usize, block: usize, rows: &[T]) -> Self {
        let at = |r: usize, c: usize| if r < m { rows[r * k + c] } else { T::default() };
        let (mut counts, mut indices, mut values) = (vec![], vec![], vec![]);
        for k0 in (0..k).step_by(block) {
            for r in (0..m).step_by(H) {
                let before = values.len();
                for c in k0..k.min(k0 + block) {
                    let stack: [T; H] = std::array::from_fn(|h| at(r + h, c));
                    if stack.iter().any(|&value| value != T::default()) {
                        indices.push((c - k0) as u8);
                        values.push(stack);
                    }
                }
                counts.push(u8::try_from(values.len() - before).unwrap());
            }
        }
        let starts = sparse_starts(m.div_ceil(H), k, block, &counts, &indices).unwrap();
        let dense = rows.iter().map(|value| value.float()).collect();
        Weight { m, k, dense, block, width: 1, counts, indices, starts, values }
    }

    /// A share of the stacks' columns is zero, and in the others a fifth of the values.
    fn random(rng: &mut Rng, m: usize, k: usize, block: usize, zeros: f64) -> Self {
        let mut rows = rng.floats(m * k);
        for (r, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
            let mut columns = Rng::new((r / H) as u64 + 99);
            for value in row {
                let keep = columns.below(1 << 20) as f64 >= zeros * f64::from(1 << 20);
                if !keep || (H > 1 && rng.below(5) == 0) {
                    *value = 0.0;
                }
            }
        }
        let rows: Vec<T> = rows.into_iter().map(T::from_unit).collect();
        // A full row of 256 does not fit its count.
        Self::stacks(m, k, if zeros < 0.1 { block.min(255) } else { block }, &rows)
    }
}

/// Fours of columns, of which a share is zero, and in the others a fifth of the values; a depth is the next multiple of four.
fn random_fours<T: Value>(rng: &mut Rng, m: usize, k: usize, block: usize, zeros: f64) -> Weight<[T; 4]> {
    let k = k.next_multiple_of(4);
    let mut rows = rng.floats(m * k);
    for four in rows.chunks_exact_mut(4) {
        let keep = rng.below(1 << 20) as f64 >= zeros * f64::from(1 << 20);
        for value in four {
            if !keep || rng.below(5) == 0 {
                *value = 0.0;
            }
        }
    }
    let rows: Vec<T> = rows.into_iter().map(T::from_unit).collect();
    let (counts, indices, values) = units(m, k, (Unit::FOUR, block), &rows).unwrap();
    let starts = sparse_starts(m, k / 4, block / 4, &counts, &indices).unwrap();
    let (dense, values) = (rows.iter().map(|value| value.float()).collect(), values.as_chunks().0.to_vec());
    Weight { m, k, dense, block, width: 4, counts, indices, starts, values }
}

impl<T: Value> Weight<T> {
    fn new(m: usize, k: usize, block: usize, rows: &[T]) -> Self {
        Weight::<[T; 1]>::stacks(m, k, block, rows).single()
    }

    fn random_rows(rng: &mut Rng, m: usize, k: usize, block: usize, zeros: f64) -> Self {
        Weight::<[T; 1]>::random(rng, m, k, block, zeros).single()
    }
}

impl<T> Weight<[T; 1]> {
    fn single(self) -> Weight<T> {
        let Weight { m, k, dense, block, width, counts, indices, starts, values } = self;
        let values = values.into_iter().flatten().collect();
        Weight { m, k, dense, block, width, counts, indices, starts, values }
    }
}

impl<W> Weight<W> {
    fn rows(&self) -> SparseRows<'_, W> {
        let m = self.counts.len().checked_div(self.k.div_ceil(self.block)).unwrap_or(self.m);
        let (k, block) = (self.k / self.width, self.block / self.width);
        SparseRows::new(m, k, block, &self.counts, &self.indices, &self.starts, &self.values).unwrap()
    }
}

/// What a call takes besides the weight.
#[derive(Clone, Copy)]
struct Case<'a> {
    /// Rows to compute.
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
fn run<W: Clone>(kernel: &StripKernel<Run<W>>, w: &Weight<W>, case: &Case) -> Aligned<f32> {
    let rows = w.rows();
    let mut out = Aligned::from(&vec![7.0; w.m * case.out_stride + 16], 0);
    let (blocks, block) = (rows.blocks(), rows.block() * w.width);
    for b in 0..blocks {
        let s = Strip {
            weight: rows.clone(),
            rows: case.rows,
            block: (b * block, w.k.min((b + 1) * block)),
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
fn check<W: Clone>(tier: Tier, kernel: &StripKernel<Run<W>>, w: &Weight<W>, case: &Case) {
    let out = run(kernel, w, case);
    for r in 0..w.m {
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
            let weights = w.dense[r * w.k..][..w.k].iter().copied();
            let residual = case.residual.map(|residual| residual[r * case.out_stride + j]);
            let (y, bound) =
                product_of(weights, |c| case.x[c * case.stride + j], (r, &case.epilogue), residual);
            assert!(
                (f64::from(got) - y).abs() <= bound,
                "{tier}: {}x{} block {} rows {:?} n {}: element ({r}, {j}) is {got}, expected {y} within {bound:e}",
                w.m,
                w.k,
                w.block,
                case.rows,
                case.n
            );
        }
    }
}

fn oracle<W: Clone>(
    table: &[Impl<StripKernel<Run<W>>>],
    random: fn(&mut Rng, usize, usize, usize, f64) -> Weight<W>,
) {
    for_each_impl(table, |tier, kernel| {
        let mut rng = Rng::new(1);
        for zeros in [0.0, 0.05, 0.5, 0.9, 1.0] {
            for m in [1, 15, 16, 17, 33, 130] {
                for k in [1, 2, 63, 64, 65, 255, 256, 257, 600] {
                    let block = [256, 128, 256, 100][rng.below(4)];
                    let w = random(&mut rng, m, k, block, zeros);
                    let k = w.k;
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
    oracle(TABLE_F32, Weight::random_rows);
}

#[test]
fn float16_matches_the_formula() {
    oracle(TABLE_F16, Weight::random_rows);
}

#[test]
fn int8_matches_the_formula() {
    oracle(TABLE_I8, Weight::random_rows);
}

#[test]
fn stacks_match_the_formula() {
    oracle(TABLE_2_F32, Weight::random);
    oracle(TABLE_2_F16, Weight::random);
    oracle(TABLE_2_I8, Weight::random);
    oracle(TABLE_4_F32, Weight::random);
    oracle(TABLE_4_F16, Weight::random);
    oracle(TABLE_4_I8, Weight::random);
    oracle(TABLE_16_F32, Weight::random);
    oracle(TABLE_16_F16, Weight::random);
    oracle(TABLE_16_I8, Weight::random);
}

#[test]
fn fours_match_the_formula() {
    oracle(fours::TABLE_F32, random_fours);
    oracle(fours::TABLE_F16, random_fours);
    oracle(fours::TABLE_I8, random_fours);
}

fn same_bits<W: Clone>(
    table: &[Impl<StripKernel<Run<W>>>],
    random: fn(&mut Rng, usize, usize, usize, f64) -> Weight<W>,
) {
    for_each_impl(table, |tier, kernel| {
        let mut rng = Rng::new(2);
        let (m, k, stride) = (37, 300, kernel.nr + 16);
        let w = random(&mut rng, m, k, 256, 0.8);
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
                let case =
                    Case { rows, n, stride, x: &x[from..], out_stride: kernel.nr, residual: None, epilogue };
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
fn every_width_and_cut_gives_the_same_bits() {
    same_bits::<f16>(TABLE_F16, Weight::random_rows);
    same_bits(TABLE_2_F32, Weight::random);
    same_bits(TABLE_4_F16, Weight::random);
    same_bits(TABLE_16_I8, Weight::random);
    same_bits(fours::TABLE_F32, random_fours);
}

#[test]
fn what_is_not_stored_does_not_count() {
    for_each_impl(TABLE_F32, |tier, kernel| {
        // Rows 0 and 2 are empty; row 1 has one weight, beside columns that are not numbers.
        let (k, n) = (5, 20);
        let mut rows = vec![0.0; 3 * k];
        rows[k + 2] = 2.0;
        let w = Weight::<f32>::new(3, k, 256, &rows);
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
        let w = Weight::<f32>::new(18, 0, 256, &[]);
        let bias: Vec<f32> = (0..18).map(|r| r as f32).collect();
        let mut out = Aligned::from(&[7.0; 18 * 16], 0);
        let s = Strip {
            weight: w.rows(),
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
fn a_column_without_a_stack_does_not_count() {
    for_each_impl(TABLE_4_F32, |tier, kernel| {
        let mut rows = vec![0.0; 6 * 3];
        (rows[1], rows[5 * 3 + 2]) = (2.0, 1.0);
        let w = Weight::<[f32; 4]>::stacks(6, 3, 256, &rows);
        let mut x = Aligned::from(&[f32::NAN; 3 * 16], 0);
        x[16..32].fill(1.5);
        let epilogue = Epilogue::NONE;
        let case = Case { rows: (0, 6), n: 9, stride: 16, x: &x, out_stride: 16, residual: None, epilogue };
        let out = run(&kernel, &w, &case);
        for r in 0..6 {
            let want = [3.0, 0.0, 0.0, 0.0, f32::NAN, f32::NAN][r];
            let as_wanted = |&y: &f32| y == want || (y.is_nan() && want.is_nan());
            assert!(out[r * 16..][..9].iter().all(as_wanted), "{tier} row {r}");
        }
    });
}

#[test]
fn columns_without_a_four_do_not_count() {
    for_each_impl(fours::TABLE_F32, |tier, kernel| {
        let mut rows = vec![0.0f32; 2 * 8];
        (rows[1], rows[8 + 7]) = (2.0, 1.0);
        let (counts, indices, values) = units(2, 8, (Unit::FOUR, 256), &rows).unwrap();
        let starts = sparse_starts(2, 2, 64, &counts, &indices).unwrap();
        let values: Vec<[f32; 4]> = values.as_chunks().0.to_vec();
        let w = Weight { m: 2, k: 8, dense: rows, block: 256, width: 4, counts, indices, starts, values };
        let mut x = Aligned::from(&[f32::NAN; 8 * 16], 0);
        x[..4 * 16].fill(1.5);
        let epilogue = Epilogue::NONE;
        let case = Case { rows: (0, 2), n: 9, stride: 16, x: &x, out_stride: 16, residual: None, epilogue };
        let out = run(&kernel, &w, &case);
        assert_eq!(out[..9], [3.0; 9], "{tier}");
        assert!(out[16..][..9].iter().all(|y| y.is_nan()), "{tier}");
    });
}

#[test]
fn a_residual_may_be_the_output() {
    for_each_impl(TABLE_I8, |tier, kernel| {
        let mut rng = Rng::new(3);
        let (m, k, n) = (20, 60, kernel.nr - 3);
        let w = Weight::<i8>::random_rows(&mut rng, m, k, 256, 0.7);
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
            weight: w.rows(),
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
