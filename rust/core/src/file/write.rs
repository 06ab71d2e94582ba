//! Graph → bytes.

use super::{Entry, HEADER_MAX, Header, MAGIC, PREFIX, Section, VERSION};
use crate::error::{Error, Result, ensure};
use crate::graph::Graph;
use crate::tensor::ALIGN;
use crate::weight::{Matrix, Structure, Tensor, Unit};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// The sections of a file in order, and where the next one starts, counted from the first.
#[derive(Default)]
struct Sections<'a> {
    parts: Vec<std::borrow::Cow<'a, [u8]>>,
    end: usize,
}

impl<'a> Sections<'a> {
    fn add(&mut self, bytes: impl Into<std::borrow::Cow<'a, [u8]>>) -> Section {
        let bytes = bytes.into();
        let offset = self.end.next_multiple_of(ALIGN);
        self.end = offset + bytes.len();
        let section =
            Section { offset: offset as u64, length: bytes.len() as u64, crc32: crc32fast::hash(&bytes) };
        self.parts.push(bytes);
        section
    }

    fn matrix(
        &mut self,
        name: &str,
        matrix: &'a Matrix,
        factor: impl Fn(&Arc<Matrix>) -> Result<usize>,
    ) -> Result<Entry> {
        let name = name.to_owned();
        let (m, k, groups, dtype) = (matrix.m(), matrix.k(), matrix.groups(), matrix.dtype());
        let scales = matrix.scales().map(bytemuck::cast_slice);
        Ok(match matrix.structure() {
            Structure::Dense(values) => {
                let values = self.add(&**values.bytes());
                Entry::Dense { name, m, k, groups, dtype, values, scales: scales.map(|s: &[u8]| self.add(s)) }
            }
            Structure::Sparse(sparse) => {
                let (counts, indices) = (self.add(sparse.counts()), self.add(sparse.indices()));
                let (Unit { height, width }, block) = (sparse.unit(), sparse.block());
                let values = self.add(&**sparse.values().bytes());
                let scales = scales.map(|s: &[u8]| self.add(s));
                Entry::Sparse {
                    name,
                    m,
                    k,
                    groups,
                    height,
                    width,
                    block,
                    dtype,
                    counts,
                    indices,
                    values,
                    scales,
                }
            }
            Structure::LowRank { u, v } => Entry::LowRank { name, u: factor(u)?, v: factor(v)? },
        })
    }
}

impl Entry {
    /// Moves every section by what comes before the first.
    fn shift(&mut self, by: u64) {
        let sections: Vec<&mut Section> = match self {
            Entry::Plain { data, .. } => vec![data],
            Entry::Dense { values, scales, .. } => {
                [Some(values), scales.as_mut()].into_iter().flatten().collect()
            }
            Entry::Sparse { counts, indices, values, scales, .. } => {
                [Some(counts), Some(indices), Some(values), scales.as_mut()].into_iter().flatten().collect()
            }
            Entry::LowRank { .. } => vec![],
        };
        for section in sections {
            section.offset += by;
        }
    }
}

/// Writes the file to `out`.
fn write(graph: &Graph, out: &mut dyn Write) -> Result<std::io::Result<()>> {
    let mut sections = Sections::default();
    let mut ids: HashMap<*const Matrix, usize> = HashMap::new();
    let mut entries = Vec::with_capacity(graph.tensors.len());
    for (id, (name, tensor)) in graph.names.iter().zip(&graph.tensors).enumerate() {
        entries.push(match tensor {
            Tensor::Plain(plain) => Entry::Plain {
                name: name.clone(),
                dtype: plain.dtype,
                shape: plain.shape.clone(),
                data: sections.add(&*plain.bytes),
            },
            Tensor::Matrix(matrix) => {
                let factor = |part: &Arc<Matrix>| {
                    let known = ids.get(&Arc::as_ptr(part)).copied();
                    known.ok_or_else(|| {
                        Error::Graph(format!("low-rank {name:?}: a factor is no tensor before it"))
                    })
                };
                let entry = sections.matrix(name, matrix, factor)?;
                ids.insert(Arc::as_ptr(matrix), id);
                entry
            }
        });
    }
    // Offsets are part of the header, whose length moves them: their digits settle after a round or two.
    let mut header = Header::of(graph, entries);
    let mut base = 0usize;
    let text = loop {
        let text = serde_json::to_vec(&header).map_err(|error| Error::Graph(format!("header: {error}")))?;
        let start = (PREFIX + text.len()).next_multiple_of(ALIGN);
        if start <= base {
            break text;
        }
        header.tensors.iter_mut().for_each(|entry| entry.shift((start - base) as u64));
        base = start;
    };
    ensure!(text.len() <= HEADER_MAX, Graph, "the header takes {} bytes, more than {HEADER_MAX}", text.len());
    Ok((|| {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&crc32fast::hash(&text).to_le_bytes())?;
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(&text)?;
        let mut at = PREFIX + text.len();
        for part in &sections.parts {
            let start = at.next_multiple_of(ALIGN);
            out.write_all(&[0; ALIGN][..start - at])?;
            out.write_all(part)?;
            at = start + part.len();
        }
        out.flush()
    })())
}

/// The file's bytes.
///
/// # Errors
/// [`Error::Graph`] where the header would be longer than [`HEADER_MAX`].
///
/// # Panics
/// Never: a vector takes every byte.
pub fn to_bytes(graph: &Graph) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(graph, &mut bytes)?.expect("a vector takes every byte");
    Ok(bytes)
}

/// Writes the file at `path`, over what is there.
///
/// # Errors
/// [`Error::Graph`] as [`to_bytes`]; [`Error::Io`] where the system refuses.
pub fn save(graph: &Graph, path: &Path) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).map_err(io)?);
    write(graph, &mut out)?.map_err(io)
}
