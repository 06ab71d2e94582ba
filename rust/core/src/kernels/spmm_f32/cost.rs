//! What a strip costs, to decide whether a matrix with zeros is faster sparse or dense.
//!
//! ```text
//! sparse = nnz · (non_zero + widen + column · v) + m · blocks · (row + row_column · v)
//! dense  = m · k · 16 · v / rate                                             v = ⌈n/16⌉
//! ```
//!
//! A non-zero costs its index and its broadcast once and a multiplication for each vector of columns; narrow values are
//! widened; a row of a block has its sums loaded, stored and finished. The dense twin multiplies everything at the rate
//! of `gemm_f32`. Both read the same packed panel, so that cancels.
//!
//! Constants are nanoseconds. Those of x86 are a least-squares fit to the time of the kernels on one core (Xeon, 3.9 GHz,
//! two 512-bit multiply-adds a cycle) over 64² to 512², depths to 1152 and 50 to 98 % zeros; those of ARM are modelled
//! (llvm-mca, Cortex-A72 at 1.5 GHz). On another processor of the tier both sides scale together: compare, but do not
//! take the figures for its time.
//!
//! Share of zeros above which sparse is faster, by the formula, for a 512 x 512 matrix and a full strip (in brackets, for
//! 16 columns): AVX-512 43 % (65 %), AVX2 32 % (55 %), NEON 21 % (30 %), scalar 13 % (16 %).

use crate::isa::Tier;
use crate::tensor::DType;

/// One tier's constants; the formula is the module's.
struct Cost {
    /// A non-zero, whatever the width.
    non_zero: f64,
    /// A non-zero that is not stored as float32, on top.
    widen: f64,
    /// A non-zero and sixteen columns.
    column: f64,
    /// A row of a block, whatever the width.
    row: f64,
    /// A row of a block and sixteen columns.
    row_column: f64,
    /// Multiplications and additions of the dense kernel in a nanosecond.
    rate: f64,
}

impl Cost {
    fn of(tier: Tier) -> Cost {
        match tier {
            Tier::Scalar => {
                Cost { non_zero: 0.06, widen: 0.23, column: 0.94, row: 0.0, row_column: 1.9, rate: 18.8 }
            }
            Tier::Avx2 | Tier::AvxVnni => {
                Cost { non_zero: 0.25, widen: 0.09, column: 0.32, row: 0.8, row_column: 0.55, rate: 61.0 }
            }
            Tier::Avx512 | Tier::Avx512Vnni | Tier::Amx => {
                Cost { non_zero: 0.19, widen: 0.05, column: 0.19, row: 1.2, row_column: 0.44, rate: 115.0 }
            }
            Tier::Neon | Tier::DotProd | Tier::I8mm => {
                Cost { non_zero: 1.0, widen: 0.5, column: 3.2, row: 4.0, row_column: 6.0, rate: 5.4 }
            }
        }
    }
}

/// Nanoseconds of one strip of `n` columns by a matrix of `m` rows and `nnz` non-zeros in `blocks` blocks.
pub fn sparse_ns(tier: Tier, values: DType, m: usize, nnz: usize, blocks: usize, n: usize) -> f64 {
    let cost = Cost::of(tier);
    let v = n.div_ceil(16) as f64;
    let widen = if values == DType::Float32 { 0.0 } else { cost.widen };
    nnz as f64 * (cost.non_zero + widen + cost.column * v)
        + (m * blocks) as f64 * (cost.row + cost.row_column * v)
}

/// Nanoseconds of the same strip by a dense `(m, k)` matrix.
pub fn dense_ns(tier: Tier, m: usize, k: usize, n: usize) -> f64 {
    (m * k * n.next_multiple_of(16)) as f64 / Cost::of(tier).rate
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of zeros at which both cost the same.
    fn break_even(tier: Tier, n: usize) -> f64 {
        let (m, k, blocks) = (512, 512, 2);
        let zeros = |share: &f64| ((1.0 - share) * (m * k) as f64) as usize;
        let shares = (0..=1000).map(|i| f64::from(i) / 1000.0);
        let faster = |share: &f64| {
            sparse_ns(tier, DType::Float32, m, zeros(share), blocks, n) < dense_ns(tier, m, k, n)
        };
        shares.into_iter().find(faster).unwrap()
    }

    #[test]
    fn break_even_is_as_documented() {
        for (tier, full, wide, narrow) in [
            (Tier::Avx512, 64, 0.43, 0.65),
            (Tier::Avx2, 64, 0.32, 0.55),
            (Tier::Neon, 32, 0.21, 0.30),
            (Tier::Scalar, 32, 0.13, 0.16),
        ] {
            let (got_wide, got_narrow) = (break_even(tier, full), break_even(tier, 16));
            assert!((got_wide - wide).abs() < 0.011, "{tier}: {got_wide}");
            assert!((got_narrow - narrow).abs() < 0.011, "{tier}: {got_narrow}");
        }
    }

    #[test]
    fn ninety_percent_zeros_are_worth_it_on_every_tier() {
        for tier in Tier::ALL {
            for (m, k, blocks) in [(256, 256, 1), (512, 4608, 18)] {
                for n in [16, 32] {
                    let sparse = sparse_ns(tier, DType::Int8, m, m * k / 10, blocks, n);
                    assert!(sparse * 2.0 < dense_ns(tier, m, k, n), "{tier} {m}x{k} n {n}");
                }
            }
        }
    }
}
