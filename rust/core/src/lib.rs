//! gossamer's core: what runs a compressed network.
//!
//! Read downward; each module uses only those above it. A [`weight`] is what compression left of a matrix. [`isa`] tells
//! what the processor can do, [`pool`] spreads work over its cores, and [`kernels`] hold the arithmetic, a folder a family,
//! a file a tier.

#![deny(unsafe_code)]

pub mod error;
pub mod tensor;
pub mod weight;
pub mod isa;
pub mod pool;
pub mod kernels;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
