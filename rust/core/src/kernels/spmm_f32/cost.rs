//! What a product costs, to decide whether a matrix with zeros is faster sparse or dense, and to say how long it takes.
//!
//! ```text
//! sparse = stored · (non_zero + widen + column · v) · shared + m · blocks · (row + row_column · v)
//! dense  = m · k · 16 · v / rate
//! around = gathered · gather + bytes · byte
//! ```
//!
//! where `v` is the number of vectors of sixteen columns. The first two are of one strip, the third of a layer. A non-zero
//! costs its index and its broadcast once and a multiplication for each vector of columns; narrow values are widened; the
//! rows of a stack share a load; a row of a block has its sums loaded, stored and finished. The dense twin multiplies
//! everything at the rate of `gemm_f32`. Around either, sixteen columns of a row of the panel are gathered where the input
//! is not read in place, and operands, output and weight come through the caches; but for the weight's bytes, that cancels
//! in the choice.
//!
//! Constants are nanoseconds. Those of x86 are a least-squares fit to the layers of residual and depthwise networks and of
//! perceptrons with 50 to 95 % zeros on one core (Xeon, 3.9 GHz, and EPYC of family 26, 4.1 GHz, both of two 512-bit
//! multiply-adds a cycle; `benches/estimates.py`); those of ARM are modelled (llvm-mca, Cortex-A72 at 1.5 GHz). On another
//! processor of a tier and maker both sides scale together: compare, but do not take the figures for its time.
//!
//! Share of zeros from which a matrix is computed sparse, for 512 x 512 and a full strip (in brackets, for 16 columns):
//! AVX-512 54 % (56 %), AVX2 33 % (35 %), NEON 17 % (27 %), scalar 9 % (9 %).

use crate::isa::{Maker, Tier};
use crate::tensor::DType;
use crate::weight::Unit;

/// The constants of a tier on processors of a maker; the formula is the module's.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// A non-zero, whatever the width.
    non_zero: f64,
    /// A non-zero that is not stored as float32, on top.
    widen: f64,
    /// A non-zero and sixteen columns.
    column: f64,
    /// What a number in a stack of two rows, and of more, costs of that: one vector of columns serves them all.
    stacked: [f64; 2],
    /// A row of a block, whatever the width.
    row: f64,
    /// A row of a block and sixteen columns.
    row_column: f64,
    /// Sixteen columns of a row of the panel.
    gather: f64,
    /// A byte of operands, output or weight.
    byte: f64,
    /// Multiplications and additions of the dense kernel in a nanosecond.
    rate: f64,
}

impl Cost {
    /// The constants of a tier on this processor.
    pub fn of(tier: Tier) -> Cost {
        Cost::on(tier, Maker::detect())
    }

    fn on(tier: Tier, maker: Maker) -> Cost {
        match tier {
            Tier::Scalar => Cost {
                non_zero: 0.0,
                widen: 0.23,
                column: 0.98,
                stacked: [1.1, 1.1],
                row: 0.0,
                row_column: 0.43,
                gather: 3.6,
                byte: 0.019,
                rate: 18.8,
            },
            Tier::Avx2 | Tier::AvxVnni => Cost {
                non_zero: 0.0,
                widen: 0.09,
                column: 0.41,
                stacked: [0.86, 0.88],
                row: 1.8,
                row_column: 0.0,
                gather: 5.0,
                byte: 0.013,
                rate: 61.0,
            },
            Tier::Avx512 | Tier::Avx512Vnni if maker == Maker::Amd => Cost {
                non_zero: 0.0,
                widen: 0.05,
                column: 0.236,
                stacked: [0.8, 0.67],
                row: 2.5,
                row_column: 0.0,
                gather: 1.15,
                byte: 0.006,
                rate: 128.5,
            },
            Tier::Avx512 | Tier::Avx512Vnni | Tier::Amx => Cost {
                non_zero: 0.0,
                widen: 0.05,
                column: 0.31,
                stacked: [0.8, 0.67],
                row: 1.9,
                row_column: 0.35,
                gather: 1.9,
                byte: 0.011,
                rate: 115.0,
            },
            Tier::Neon | Tier::DotProd | Tier::I8mm => Cost {
                non_zero: 1.0,
                widen: 0.5,
                column: 3.2,
                stacked: [1.0, 1.0],
                row: 4.0,
                row_column: 6.0,
                gather: 5.0,
                byte: 0.25,
                rate: 5.4,
            },
        }
    }

    /// Nanoseconds of one strip of `n` columns by a matrix of `m` rows that stores `stored` numbers in `blocks` blocks,
    /// `unit` by `unit`.
    pub fn sparse_ns(
        &self,
        values: DType,
        m: usize,
        stored: usize,
        unit: Unit,
        blocks: usize,
        n: usize,
    ) -> f64 {
        let v = n.div_ceil(16) as f64;
        let widen = if values == DType::Float32 { 0.0 } else { self.widen };
        let shared = match unit {
            // A four of columns saves bytes, not loads.
            Unit::ONE | Unit::FOUR => 1.0,
            Unit { height: 2, .. } => self.stacked[0],
            _ => self.stacked[1],
        };
        stored as f64 * (self.non_zero + widen + self.column * v) * shared
            + (m * blocks) as f64 * (self.row + self.row_column * v)
    }

    /// Nanoseconds of the same strip by a dense `(m, k)` matrix.
    pub fn dense_ns(&self, m: usize, k: usize, n: usize) -> f64 {
        (m * k * n.next_multiple_of(16)) as f64 / self.rate
    }

    /// Nanoseconds around the products of a layer: `gathered` rows of panels, each of sixteen columns, and `bytes` of
    /// operands, output and weight.
    pub fn around_ns(&self, gathered: f64, bytes: f64) -> f64 {
        gathered * self.gather + bytes * self.byte
    }
}

/// By how much a matrix with zeros must be faster dense to be computed so: its dense twin takes memory of its own.
const MARGIN: f64 = 1.05;

/// Whether a matrix that takes `sparse` nanoseconds is to be computed dense, in `dense`.
pub fn prefers_dense(sparse: f64, dense: f64) -> bool {
    dense * MARGIN < sparse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of zeros at which both cost the same.
    fn break_even(cost: Cost, n: usize) -> f64 {
        let (m, k, blocks) = (512, 512, 2);
        let zeros = |share: &f64| ((1.0 - share) * (m * k) as f64) as usize;
        let shares = (0..=1000).map(|i| f64::from(i) / 1000.0);
        let faster = |share: &f64| {
            let sparse = cost.sparse_ns(DType::Float32, m, zeros(share), Unit::ONE, blocks, n);
            !prefers_dense(sparse, cost.dense_ns(m, k, n))
        };
        shares.into_iter().find(faster).unwrap()
    }

    #[test]
    fn break_even_is_as_documented() {
        for (tier, maker, full, wide, narrow) in [
            (Tier::Avx512, Maker::Other, 64, 0.54, 0.56),
            (Tier::Avx512, Maker::Amd, 64, 0.46, 0.49),
            (Tier::Avx2, Maker::Other, 64, 0.33, 0.35),
            (Tier::Neon, Maker::Other, 32, 0.17, 0.27),
            (Tier::Scalar, Maker::Other, 32, 0.09, 0.09),
        ] {
            let cost = Cost::on(tier, maker);
            let (got_wide, got_narrow) = (break_even(cost, full), break_even(cost, 16));
            assert!((got_wide - wide).abs() < 0.011, "{tier}: {got_wide}");
            assert!((got_narrow - narrow).abs() < 0.011, "{tier}: {got_narrow}");
        }
    }

    #[test]
    fn ninety_percent_zeros_are_worth_it_on_every_tier() {
        for cost in
            Tier::ALL.map(|tier| [Maker::Amd, Maker::Other].map(|maker| Cost::on(tier, maker))).as_flattened()
        {
            for (m, k, blocks) in [(256, 256, 1), (512, 4608, 18)] {
                for n in [16, 32] {
                    let sparse = cost.sparse_ns(DType::Int8, m, m * k / 10, Unit::ONE, blocks, n);
                    assert!(sparse * 2.0 < cost.dense_ns(m, k, n), "{cost:?} {m}x{k} n {n}");
                }
            }
        }
    }
}
