//! gossamer's core: what runs a compressed network.
//!
//! Read downward; each module uses only those above it. A [`weight`] is what compression left of a matrix. [`isa`] tells
//! what the processor can do, [`pool`] spreads work over its cores, and [`kernels`] hold the arithmetic, a folder a family,
//! a file a tier. An [op](ops) says what a node means, a [`graph`] is nodes in order, a [`file`](mod@file) is a graph at rest. A
//! [`plan`] decides how a graph runs for given shapes on this processor, and [`run`] does it.

#![deny(unsafe_code)]

pub mod error;
pub mod tensor;
pub mod weight;
pub mod isa;
pub mod pool;
pub mod kernels;
pub mod ops;
pub mod graph;
pub mod file;
pub mod plan;
pub mod run;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
