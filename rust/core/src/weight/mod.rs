//! Weights: a structure (dense tiles, sparse rows, two factors) over values (float32, float16, int8).
//!
//! A [`Tensor`] is what a file holds: plain numbers, or a [`Matrix`] in one of its forms. The views ([`Tiles`],
//! [`SparseRows`]) are what kernels read. Each is made by a constructor that checks it in full, so a kernel may trust every
//! count and index without looking again.

use std::sync::Arc;

mod matrix;
mod sparse;
mod tiles;
mod values;

pub use matrix::{Matrix, Sparse, Structure};
pub use sparse::{BLOCK, HEIGHTS, SparseBlock, SparseRows, sparse, sparse_starts, stacks};
pub use tiles::{QUAD, TILE, Tiles, TilesI8, tile, tile_i8};
pub use values::{Bytes, Number, Owner, Plain, Values};

/// What a file holds under one name.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// Plain numbers.
    Plain(Arc<Plain>),
    /// A weight matrix.
    Matrix(Arc<Matrix>),
}

impl Tensor {
    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Tensor::Plain(plain) => plain.bytes.len(),
            Tensor::Matrix(matrix) => matrix.bytes(),
        }
    }
}

#[cfg(test)]
mod tests;
