//! What a strip costs, to decide whether an int8 matrix with zeros is faster sparse or dense.
//!
//! ```text
//! sparse = (nnz + m · blocks · (group - 1) / 2) · non_zero · share + m · blocks · row + k · pack / 2, or no packing
//! fours  = fours · (four + four_column · ⌈n/16⌉) + m · blocks · row + k · pack
//! dense  = m · k · 16 · ⌈n/16⌉ / rate + m · dense_row + k · pack
//! ```
//!
//! A tier takes `group` non-zeros of a row at a time, and some of the last of a block have nothing to do; it may be able to
//! do a `share` of a strip in that share of the time. A dense kernel and one of fours of columns interleave their panel, the
//! other sparse one copies what taps see, or reads an activation in place. Both end in the same arithmetic, which cancels but
//! for what a dense kernel's sums cost that pass through memory.
//!
//! Constants are nanoseconds; those of x86 follow the time of a network's layers on one core (Xeon, 3.8 GHz; AVX-512 VNNI
//! of AMD, EPYC of family 26, 4.1 GHz; AVX2, EPYC, 3.2 GHz, with an older dense kernel), those of ARM are modelled (1.5 GHz).
//! On another processor of a tier and maker both sides scale together: compare, but do not take the figures for its time.

use crate::isa::{Maker, Tier};
use crate::kernels::strip_i8::{LANES, NR};

/// The constants of a tier on processors of a maker; the formula is the module's.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Non-zeros of a row taken at a time.
    group: usize,
    /// Columns of the narrowest share of a strip.
    narrowest: usize,
    /// A non-zero over a whole strip.
    non_zero: f64,
    /// A four of columns, whatever the width.
    four: f64,
    /// A four of columns and sixteen columns of a strip.
    four_column: f64,
    /// A row of a block.
    row: f64,
    /// A row of the dense kernel, beyond its multiplications.
    dense_row: f64,
    /// A row of the dense kernel's panel.
    pack: f64,
    /// Multiplications and additions of the dense kernel in a nanosecond.
    rate: f64,
}

impl Cost {
    /// The constants of a tier on this processor.
    pub fn of(tier: Tier) -> Cost {
        Cost::on(tier, Maker::detect())
    }

    fn on(tier: Tier, maker: Maker) -> Cost {
        let avx2 = Cost {
            group: 4,
            narrowest: NR / 2,
            non_zero: 2.0,
            four: 0.2,
            four_column: 1.15,
            row: 5.0,
            dense_row: 0.0,
            pack: 4.0,
            rate: 68.0,
        };
        let vnni =
            Cost { non_zero: 0.83, four: 0.18, four_column: 0.235, row: 4.0, pack: 1.5, rate: 330.0, ..avx2 };
        let neon = Cost {
            group: 1,
            narrowest: LANES,
            non_zero: 13.0,
            four: 1.0,
            four_column: 8.0,
            row: 15.0,
            pack: 20.0,
            rate: 5.5,
            ..avx2
        };
        match tier {
            Tier::Scalar => {
                Cost { non_zero: 16.0, four: 0.0, four_column: 16.0, row: 4.0, rate: 3.5, ..neon }
            }
            Tier::Avx2 => avx2,
            Tier::AvxVnni => Cost { four: 0.1, four_column: 0.34, rate: 165.0, ..avx2 },
            Tier::Avx512 => Cost { four: 0.1, four_column: 0.88, rate: 75.0, ..avx2 },
            Tier::Avx512Vnni if maker == Maker::Amd => {
                Cost { non_zero: 0.28, row: 1.1, dense_row: 4.9, pack: 1.25, rate: 550.0, ..vnni }
            }
            Tier::Avx512Vnni => vnni,
            Tier::Amx => Cost { dense_row: 4.0, rate: 1150.0, ..vnni },
            Tier::Neon => neon,
            Tier::DotProd | Tier::I8mm => {
                Cost { non_zero: 10.7, four: 1.0, four_column: 1.7, rate: 42.0, ..neon }
            }
        }
    }

    /// Nanoseconds of one strip of `n` columns by a matrix of `m` rows and `nnz` non-zeros in `blocks` blocks of its `k` columns;
    /// `in_place` where the panel is the activation itself.
    pub fn sparse_ns(
        &self,
        (m, k): (usize, usize),
        (nnz, blocks): (usize, usize),
        n: usize,
        in_place: bool,
    ) -> f64 {
        let share = n.next_multiple_of(self.narrowest) as f64 / NR as f64;
        let slots = nnz as f64 + (m * blocks * (self.group - 1)) as f64 / 2.0;
        let pack = if in_place { 0.0 } else { k as f64 * self.pack / 2.0 };
        slots * self.non_zero * share + (m * blocks) as f64 * self.row + pack
    }

    /// Nanoseconds of the same strip by a matrix of `fours` fours of columns.
    pub fn fours_ns(&self, (m, k): (usize, usize), (fours, blocks): (usize, usize), n: usize) -> f64 {
        let four = self.four + self.four_column * n.div_ceil(LANES) as f64;
        fours as f64 * four + (m * blocks) as f64 * self.row + k as f64 * self.pack
    }

    /// Nanoseconds of the same strip by a dense `(m, k)` matrix.
    pub fn dense_ns(&self, (m, k): (usize, usize), n: usize) -> f64 {
        (m * k * n.next_multiple_of(LANES)) as f64 / self.rate
            + m as f64 * self.dense_row
            + k as f64 * self.pack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tier but some, on processors of every maker.
    fn every(but: &[Tier]) -> impl Iterator<Item = (Tier, Maker)> {
        let tiers = Tier::ALL.into_iter().filter(|tier| !but.contains(tier));
        tiers.flat_map(|tier| [Maker::Amd, Maker::Other].map(|maker| (tier, maker)))
    }

    fn times(cost: Cost, (m, k): (usize, usize), zeros: f64, n: usize, in_place: bool) -> (f64, f64) {
        let nnz = ((1.0 - zeros) * (m * k) as f64) as usize;
        (cost.sparse_ns((m, k), (nnz, k.div_ceil(256)), n, in_place), cost.dense_ns((m, k), n))
    }

    #[test]
    fn ninety_percent_zeros_are_worth_it_where_there_are_no_matrix_tiles() {
        for (tier, maker) in every(&[Tier::Amx, Tier::DotProd, Tier::I8mm]) {
            for shape in [(64, 256), (256, 64), (128, 1152), (512, 4608)] {
                for n in [49, 64] {
                    let (sparse, dense) = times(Cost::on(tier, maker), shape, 0.9, n, false);
                    assert!(sparse < dense, "{tier} {maker:?} {shape:?} n {n}: {sparse} {dense}");
                }
            }
        }
    }

    #[test]
    fn matrix_tiles_multiply_zeros_faster_than_others_skip_them() {
        let amx = Cost::on(Tier::Amx, Maker::Other);
        let (sparse, dense) = times(amx, (256, 2304), 0.9, 64, false);
        assert!(dense * 1.2 < sparse, "{sparse} {dense}");
        let (sparse, dense) = times(amx, (256, 2304), 0.98, 64, false);
        assert!(sparse < dense, "{sparse} {dense}");
        // A product of few rows waits for its panel, which a sparse kernel need not make.
        let (sparse, dense) = times(amx, (24, 144), 0.9, 64, true);
        assert!(sparse < dense, "{sparse} {dense}");
    }

    #[test]
    fn fours_are_worth_it_on_every_tier() {
        for (tier, maker) in every(&[]) {
            let cost = Cost::on(tier, maker);
            for (m, k) in [(64, 256), (128, 1152), (512, 4608)] {
                for n in [49, 64] {
                    let fours = cost.fours_ns((m, k), (m * k / 40, usize::div_ceil(k, 256)), n);
                    let (sparse, dense) = times(cost, (m, k), 0.9, n, false);
                    // Without a product of four, a four is four non-zeros, and its panel is interleaved. On AMD's processors
                    // either may be the faster of the two (docs/sparsity.md).
                    let either = maker == Maker::Amd && tier == Tier::Avx512Vnni;
                    let fewer = tier == Tier::Scalar || either || fours < sparse;
                    assert!(
                        fours < dense && fewer,
                        "{tier} {maker:?} {m} x {k} n {n}: {fours} {sparse} {dense}"
                    );
                }
            }
        }
    }

    #[test]
    fn half_zeros_are_computed_dense_where_products_of_four_are() {
        for tier in [Tier::AvxVnni, Tier::Avx512Vnni, Tier::Amx, Tier::DotProd] {
            for maker in [Maker::Amd, Maker::Other] {
                let (sparse, dense) = times(Cost::on(tier, maker), (256, 2304), 0.5, 64, false);
                assert!(dense < sparse, "{tier} {maker:?}: {sparse} {dense}");
            }
        }
    }
}
