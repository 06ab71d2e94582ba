//! Kernels: one folder a family, one file a tier.
//!
//! A family's `mod.rs` holds its contract (the formula, shapes, layouts), its `TABLE` of implementations, best first, and
//! the tests that run every entry against a slow, plain oracle. The plan, the tests, the benches and `gossamer cpu` all
//! read that one table.

use crate::isa::Tier;

pub mod binary;
pub mod depthwise_f32;
pub mod depthwise_i8;
pub mod gemm_f32;
pub mod gemm_i8;
pub mod gemv_f32;
pub mod gemv_i8;
pub mod map;
pub mod pack;
pub mod pool_f32;
pub mod pool_i8;
pub mod quantize;
pub mod reduce;
pub mod relayout;
pub mod spmm_f32;
pub mod spmm_i8;
pub mod spmv_f32;
pub mod spmv_i8;
pub mod strip;
pub mod strip_i8;
pub mod window;
mod math;
mod unroll;
mod simd;

/// One implementation of a family.
#[derive(Debug)]
pub struct Impl<K> {
    /// The tier it is written for.
    pub tier: Tier,
    /// Its kernel, where this processor has the tier.
    pub get: fn() -> Option<K>,
}

/// The best entry of a family that `tier` allows and this processor can run.
///
///
/// # Panics
/// Where the table's last entry is not scalar, as every table's is.
pub fn pick<K>(table: &[Impl<K>], tier: Tier) -> (Tier, K) {
    table
        .iter()
        .filter(|entry| entry.tier <= tier)
        .find_map(|entry| (entry.get)().map(|kernel| (entry.tier, kernel)))
        .expect("a table ends with a scalar kernel, which every processor runs")
}

/// Every family by name, and the tier its best kernel has for `tier`.
pub fn chosen(_tier: Tier) -> Vec<(&'static str, Tier)> {
    vec![]
}
