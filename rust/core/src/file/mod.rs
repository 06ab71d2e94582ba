//! The `.goss` file: the only reader and writer of what `docs/format.md` specifies.
//!
//! ```text
//! 0   8  magic "GOSSAMER"
//! 8   4  version, u32
//! 12  4  CRC-32 of the header, u32
//! 16  8  length of the header, u64
//! 24  …  header: JSON, UTF-8
//! …   …  sections, each at the next multiple of 64, in the order in which the header's tensors name them
//! ```
//! All integers are little-endian. What lies between sections is zero; the file ends with its last section.

use crate::graph::{Graph, Input, Node, Output};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

mod mmap;
mod read;
mod write;

pub use read::{Source, read};
pub use write::{save, to_bytes};

/// What every file starts with.
pub const MAGIC: [u8; 8] = *b"GOSSAMER";
/// The version this gossamer writes; it reads this and every older one.
pub const VERSION: u32 = 1;
/// Bytes before the header.
pub const PREFIX: usize = 24;
/// The longest header that is read: what parsing it may allocate stays in proportion.
pub const HEADER_MAX: usize = 4 << 20;

/// A run of bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    /// From the file's first byte; a multiple of 64.
    offset: u64,
    /// Its length in bytes.
    length: u64,
    /// CRC-32 of its bytes.
    crc32: u32,
}

/// One entry of the tensor table. Sections of an entry follow each other in the order of its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case", deny_unknown_fields)]
enum Entry {
    /// Numbers as torch lays them out.
    Plain { name: String, dtype: DType, shape: Vec<usize>, data: Section },
    /// A matrix in tiles of sixteen rows.
    Dense {
        name: String,
        m: usize,
        k: usize,
        groups: usize,
        dtype: DType,
        values: Section,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        scales: Option<Section>,
    },
    /// A matrix's non-zeros.
    Sparse {
        name: String,
        m: usize,
        k: usize,
        groups: usize,
        /// Rows that share indices; left out where each has its own.
        #[serde(skip_serializing_if = "is_one", default = "one")]
        height: usize,
        /// Columns that share indices; left out where each has its own.
        #[serde(skip_serializing_if = "is_one", default = "one")]
        width: usize,
        block: usize,
        dtype: DType,
        counts: Section,
        indices: Section,
        values: Section,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        scales: Option<Section>,
    },
    /// The product of two matrices that earlier entries hold.
    LowRank { name: String, u: usize, v: usize },
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_one(size: &usize) -> bool {
    *size == 1
}

/// The header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The gossamer that wrote the file.
    producer: String,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    nodes: Vec<Node>,
    tensors: Vec<Entry>,
}

impl Header {
    fn of(graph: &Graph, tensors: Vec<Entry>) -> Header {
        Header {
            producer: concat!("gossamer ", env!("CARGO_PKG_VERSION")).to_owned(),
            inputs: graph.inputs.clone(),
            outputs: graph.outputs.clone(),
            nodes: graph.nodes.clone(),
            tensors,
        }
    }
}

#[cfg(test)]
mod tests;
