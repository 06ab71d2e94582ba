//! The same product for *fours*: four columns of a row, the first a multiple of four, side by side.
//!
//! `out[r][j] = requantize(Σ_k W[r][k] · x[k][j])` as [`strip_i8`](crate::kernels::strip_i8) defines it. The weight is
//! `SparseRows` of `[i8; 4]`, whose columns are counted in fours; the panel is that of the dense kernel of the tier,
//! `[k/4][panel_stride][4]`, whose `pack` made it. An index names a whole group of the panel, so what a four-way dot
//! product takes lies there as it is: one instruction a register of columns, no shuffle. Exact, hence equal, on every tier.

use super::{Part, parts};
use crate::isa::Tier;
use crate::kernels::strip_i8::{StripI8, StripI8Kernel};
use crate::kernels::{Impl, gemm_i8};
use crate::weight::SparseRows;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Computes the rows of a strip.
pub type Run = unsafe fn(&StripI8<'_, SparseRows<'_, [i8; 4]>>);

/// The implementations, best first.
pub static TABLE: &[Impl<StripI8Kernel<Run>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::AvxVnni, get: avxvnni::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::DotProd, get: dotprod::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

/// The kernel of a tier, which reads the panel of that tier's dense kernel; none where this processor has not got it.
fn beside_dense(tier: Tier, run: Run) -> Option<StripI8Kernel<Run>> {
    let dense = (gemm_i8::TABLE.iter().find(|entry| entry.tier == tier)?.get)()?;
    Some(StripI8Kernel { run, pack: dense.pack(), gathers: dense.gathers() })
}

#[cfg(test)]
#[allow(unsafe_code, reason = "calls kernels through their unsafe signature")]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::Case;
    use crate::kernels::strip_i8::{DEPTH, LANES, NR};
    use crate::testing::{Aligned, for_each_impl};

    fn check(tier: Tier, kernel: StripI8Kernel<Run>, case: &Case, block: usize, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let weight = case.fours(block);
        let reach = n.next_multiple_of(LANES);
        let stride = reach + 1;
        let mut x = Aligned::<u8>::new(k * stride, 3);
        for (to, from) in x.chunks_mut(stride).zip(case.x.chunks(n)) {
            to[..n].copy_from_slice(from);
        }
        let pointers: Vec<_> = x.chunks(stride).map(<[u8]>::as_ptr).collect();
        let panel_stride = reach + LANES;
        let mut panel = Aligned::<u8>::new(k.next_multiple_of(DEPTH) * panel_stride, 0);
        // SAFETY: the tier was detected; rows and panel have `reach` columns, the panel every group.
        unsafe { (kernel.pack)(&pointers, n, panel.as_mut_ptr(), panel_stride) };
        // SAFETY: the tier was detected; `strip` gives room for what a strip may touch.
        let got = case.strip(weight.rows(), rows, (&panel, panel_stride), |s| unsafe { (kernel.run)(s) });
        assert_eq!(got, case.expected(rows), "{tier}: {m} x {k} x {n} in blocks of {block}, rows {rows:?}");
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for (m, zeros) in [(1, 0.9), (15, 0.5), (16, 0.95), (17, 0.0), (33, 0.7), (65, 0.9), (5, 1.0)] {
                for k in [4, 8, 12, 64, 252, 256, 300, 600] {
                    for n in [1, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64] {
                        let block = [256, 128, 8][kind as usize % 3];
                        check(tier, kernel, &Case::of_fours((m, k, n), kind, zeros), block, (0, m));
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
                check(tier, kernel, &Case::of_fours((18, 36, NR), kind, 0.5), 256, (0, 18));
                check(tier, kernel, &Case::of_fours((17, 532, 21), kind, 0.5), 128, (0, 17));
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((64, 40, NR), kind, 0.5), 256, (0, 64));
                check(tier, kernel, &Case::ties((64, 40, 20), kind, 0.5), 256, (0, 64));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 16), (16, 32), (16, 112), (32, 130), (128, 130), (16, 16)] {
                check(tier, kernel, &Case::of_fours((130, 300, 50), 4, 0.8), 256, rows);
            }
        });
    }

    #[test]
    fn a_sum_of_nothing_is_the_bias() {
        for_each_impl(TABLE, |tier, kernel| {
            check(tier, kernel, &Case::new((17, 0, 20), 0, 0.0), 256, (0, 17));
        });
    }
}
