//! The same product for *fours*: four columns of a row, the first a multiple of four, side by side.
//!
//! A four is an entry of a `SparseRows` whose values are arrays, `[T; 4]`, and whose columns are counted in fours. An index
//! then serves four values, which meet four rows of the panel that follow each other.
//!
//! The contract is that of [`spmm_f32`](super), whose loops these are; [`Strip::block`](crate::kernels::strip::Strip::block)
//! and the panel count columns. A block has at most 256 of them. What is skipped is a four: in a stored one a zero weight is
//! multiplied.

use half::f16;

use super::Run;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::isa::Tier;
use crate::kernels::Impl;
use crate::kernels::strip::StripKernel;

/// Kernels for fours of float32 values.
pub static TABLE_F32: &[Impl<StripKernel<Run<[f32; 4]>>>] = super::table!(get_fours_f32);
/// Kernels for fours of float16 values.
pub static TABLE_F16: &[Impl<StripKernel<Run<[f16; 4]>>>] = super::table!(get_fours_f16);
/// Kernels for fours of int8 values.
pub static TABLE_I8: &[Impl<StripKernel<Run<[i8; 4]>>>] = super::table!(get_fours_i8);
