//! Kernels: one folder a family, one file a tier.
//!
//! A family's `mod.rs` holds its contract (the formula, shapes, layouts), its `TABLE` of implementations, best first, and
//! the tests that run every entry against a slow, plain oracle. The plan, the tests, the benches and `gossamer cpu` all
//! read that one table.

use crate::isa::Tier;

pub mod binary;
pub mod conv_i8;
pub mod depthwise_f32;
pub mod depthwise_i8;
pub mod gemm_f32;
pub mod gemm_i8;
pub mod gemv_f32;
pub mod gemv_i8;
pub mod map;
pub mod pack;
pub mod packed;
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
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod walk;
pub mod window;
pub mod winograd_f32;
#[cfg(target_arch = "x86_64")]
mod amx;
mod lanes;
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
/// # Panics
/// Where the table's last entry is not scalar, as every table's is.
pub fn pick<K>(table: &[Impl<K>], tier: Tier) -> (Tier, K) {
    table
        .iter()
        .filter(|entry| entry.tier <= tier)
        .find_map(|entry| (entry.get)().map(|kernel| (entry.tier, kernel)))
        .expect("a table ends with a scalar kernel, which every processor runs")
}

/// A table, whatever its kernels' type.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The folder's name, and what tells the table from others of the folder.
    pub name: &'static str,
    /// Where the table is, below this module.
    pub path: &'static str,
    /// The tiers of its entries that this processor runs, best first.
    pub tiers: fn() -> Vec<Tier>,
}

impl Family {
    /// A family of [`FAMILIES`].
    pub fn find(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// The tier [`pick`] finds in the table for `tier`.
    pub fn chosen(&self, tier: Tier) -> Tier {
        (self.tiers)().into_iter().find(|&found| found <= tier).unwrap_or(Tier::Scalar)
    }
}

macro_rules! families {
    ($($name:literal => $table:path,)+) => {
        &[$(Family {
            name: $name,
            path: stringify!($table),
            tiers: || $table.iter().filter(|entry| (entry.get)().is_some()).map(|entry| entry.tier).collect(),
        }),+]
    };
}

/// Every table there is.
pub static FAMILIES: &[Family] = families![
    "gemm_f32" => gemm_f32::TABLE,
    "gemm_i8" => gemm_i8::TABLE,
    "gemv_f32" => gemv_f32::TABLE_F32,
    "gemv_f32 float16" => gemv_f32::TABLE_F16,
    "gemv_i8" => gemv_i8::TABLE,
    "spmm_f32" => spmm_f32::TABLE_F32,
    "spmm_f32 float16" => spmm_f32::TABLE_F16,
    "spmm_f32 int8" => spmm_f32::TABLE_I8,
    "spmm_f32 1x4" => spmm_f32::fours::TABLE_F32,
    "spmm_f32 1x4 float16" => spmm_f32::fours::TABLE_F16,
    "spmm_f32 1x4 int8" => spmm_f32::fours::TABLE_I8,
    "spmm_f32 2x1" => spmm_f32::stacked::TABLE_2_F32,
    "spmm_f32 2x1 float16" => spmm_f32::stacked::TABLE_2_F16,
    "spmm_f32 2x1 int8" => spmm_f32::stacked::TABLE_2_I8,
    "spmm_f32 4x1" => spmm_f32::stacked::TABLE_4_F32,
    "spmm_f32 4x1 float16" => spmm_f32::stacked::TABLE_4_F16,
    "spmm_f32 4x1 int8" => spmm_f32::stacked::TABLE_4_I8,
    "spmm_f32 16x1" => spmm_f32::stacked::TABLE_16_F32,
    "spmm_f32 16x1 float16" => spmm_f32::stacked::TABLE_16_F16,
    "spmm_f32 16x1 int8" => spmm_f32::stacked::TABLE_16_I8,
    "spmm_i8" => spmm_i8::TABLE,
    "spmm_i8 1x4" => spmm_i8::fours::TABLE,
    "spmv_f32" => spmv_f32::TABLE_F32,
    "spmv_f32 float16" => spmv_f32::TABLE_F16,
    "spmv_f32 int8" => spmv_f32::TABLE_I8,
    "spmv_f32 1x4" => spmv_f32::fours::TABLE_F32,
    "spmv_f32 1x4 float16" => spmv_f32::fours::TABLE_F16,
    "spmv_f32 1x4 int8" => spmv_f32::fours::TABLE_I8,
    "spmv_i8" => spmv_i8::TABLE,
    "spmv_i8 1x4" => spmv_i8::fours::TABLE,
    "conv_i8" => conv_i8::TABLE,
    "depthwise_f32" => depthwise_f32::TABLE,
    "depthwise_i8" => depthwise_i8::TABLE,
    "pool_f32" => pool_f32::TABLE,
    "pool_i8" => pool_i8::TABLE,
    "map" => map::TABLE,
    "binary" => binary::TABLE,
    "reduce" => reduce::TABLE,
    "reduce softmax" => reduce::softmax::TABLE,
    "reduce layer_norm" => reduce::norm::LAYER,
    "reduce group_norm" => reduce::norm::GROUP,
    "quantize range" => quantize::RANGE,
    "quantize" => quantize::QUANTIZE,
    "quantize back" => quantize::DEQUANTIZE,
    "quantize add" => quantize::ADD,
    "quantize lookup" => quantize::LOOKUP,
    "quantize mul" => quantize::MUL,
    "quantize blend" => quantize::BLEND,
    "pack float32" => pack::TABLE_F32,
    "pack uint8" => pack::TABLE_U8,
    "relayout" => relayout::TABLE,
    "winograd_f32" => winograd_f32::TABLE,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Paths of the tables that files below `folder` define.
    fn defined(folder: &Path, module: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the sources lie where the crate was built") {
            let path = entry.expect("an entry of the folder").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("sources have plain names");
            if path.is_dir() {
                defined(&path, &format!("{module}{stem}::"), found);
                continue;
            }
            let module = if stem == "mod" { module.to_owned() } else { format!("{module}{stem}::") };
            for line in std::fs::read_to_string(&path).expect("a source is text").lines() {
                if let Some((name, rest)) = line.strip_prefix("pub static ").and_then(|l| l.split_once(':'))
                    && rest.trim_start().starts_with("&[Impl<")
                {
                    found.insert(format!("{module}{name}"));
                }
            }
        }
    }

    #[test]
    fn every_table_is_listed() {
        let mut found = BTreeSet::new();
        defined(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels"), "", &mut found);
        let listed: BTreeSet<String> = FAMILIES.iter().map(|family| family.path.replace(' ', "")).collect();
        assert_eq!(listed, found);
        let names: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len(), "names are unique");
    }

    #[test]
    fn tables_are_best_first_and_end_with_scalar() {
        for family in FAMILIES {
            let tiers = (family.tiers)();
            assert!(tiers.is_sorted_by(|a, b| a >= b), "{}: {tiers:?}", family.name);
            assert_eq!(tiers.last(), Some(&Tier::Scalar), "{}", family.name);
            assert_eq!(family.chosen(Tier::Scalar), Tier::Scalar);
        }
    }
}
