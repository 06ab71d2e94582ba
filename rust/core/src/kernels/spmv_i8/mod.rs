//! A sparse int8 weight times a few uint8 vectors.
//!
//! `out[i][r] = requantize(Σ_k W[r][k] · x[i][k])` as [`strip_i8`](super::strip_i8) defines it, over the non-zeros of `W`;
//! `x` is `(n, k)`, plain. Exact, hence equal, on every tier. A tier reads the weight as the file has it, or [`Packed`]; the
//! rows of a call are then whole groups, of [`GROUP`] tiles.

use super::Impl;
use super::strip_i8::rows::RowsI8;
use crate::isa::Tier;
use crate::weight::SparseRows;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
pub mod fours;
mod packed;
mod scalar;

pub use crate::kernels::lanes::GROUP;
pub use packed::Packed;

/// Packs a weight for a tier.
pub type Pack = fn(&SparseRows<'_, i8>) -> Packed;

/// The code of a tier that reads packed weights, four non-zeros of a row a step.
pub type RunPacked = unsafe fn(&RowsI8<'_, &Packed>);

/// A kernel of this family, by the form of the weight it reads.
///
/// # Safety
/// Whoever calls one holds the tier's token; the pointers of the [`RowsI8`] are valid for what it names; nothing else
/// touches that part of `out` meanwhile; and the weight and the slices of its `requant` have the rows.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// The file's form.
    Rows(unsafe fn(&RowsI8<'_, SparseRows<'_, i8>>)),
    /// The form for table look-ups.
    Packed {
        /// Makes it, once, at load.
        pack: Pack,
        /// Reads what `pack` has made, and panics at what another tier's has.
        run: RunPacked,
    },
}

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

#[cfg(test)]
#[allow(unsafe_code, reason = "calls kernels through their unsafe signature")]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::rows::MAX_ROWS;
    use crate::kernels::strip_i8::testing::Case;
    use crate::testing::for_each_impl;

    fn check(tier: Tier, kernel: Kernel, case: &Case, block: usize, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let weight = case.sparse(block);
        let got = match kernel {
            // SAFETY: the tier was detected; `rows` gives room for what a call may touch.
            Kernel::Rows(run) => case.rows(weight.rows(), rows, |s| unsafe { run(s) }),
            // SAFETY: the same.
            Kernel::Packed { pack, run } => case.rows(&pack(&weight.rows()), rows, |s| unsafe { run(s) }),
        };
        assert_eq!(
            got,
            case.expected(rows),
            "{tier}: {m} x {k}, {n} vectors in blocks of {block}, rows {rows:?}"
        );
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for (m, zeros) in [(1, 0.9), (15, 0.5), (16, 0.95), (17, 0.99), (33, 0.7), (65, 0.9), (5, 1.0)] {
                for k in [0, 1, 3, 63, 64, 65, 127, 128, 129, 191, 193, 255, 256, 300, 600] {
                    for n in (1..=MAX_ROWS).chain([9, 17]) {
                        let block = [256, 128, 7, 200][kind as usize % 4];
                        check(tier, kernel, &Case::new((m, k, n), kind, zeros), block, (0, m));
                        kind += 1;
                    }
                }
            }
        });
    }

    #[test]
    fn equals_the_oracle_in_every_kind_of_output() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::KINDS {
                check(tier, kernel, &Case::new((37, 530, 3), kind, 0.5), 256, (0, 37));
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((100, 40, 7), kind, 0.5), 256, (0, 100));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 128), (128, 256), (128, 300), (256, 300), (128, 128)] {
                check(tier, kernel, &Case::new((300, 300, 7), 4, 0.8), 256, rows);
            }
        });
    }
}
