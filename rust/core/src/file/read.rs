//! Bytes → graph, with every refusal.

use super::{Entry, HEADER_MAX, Header, MAGIC, PREFIX, Section, VERSION, mmap};
use crate::error::{Error, Result, ensure};
use crate::graph::Graph;
use crate::tensor::{ALIGN, DType};
use crate::weight::{BLOCK, Bytes, Matrix, Owner, Plain, Structure, Tensor, Unit, Values};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Where a file's bytes come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A path, mapped.
    Map(&'a Path),
    /// A path, read into private memory.
    Read(&'a Path),
    /// Bytes, copied.
    Bytes(&'a [u8]),
}

/// Whether bytes have that checksum. A fuzzer is let past: it would never guess one, and nothing may rest on them.
fn agrees(bytes: &[u8], crc32: u32) -> bool {
    cfg!(fuzzing) || crc32fast::hash(bytes) == crc32
}

/// Reads and validates a file.
///
/// # Errors
/// [`Error::Io`] where the system refuses; [`Error::Format`] where the bytes are not a sound file.
pub fn read(source: Source<'_>) -> Result<Graph> {
    let owner: Arc<dyn Owner> = match source {
        Source::Map(path) => {
            let io = |source| Error::Io { path: path.to_owned(), source };
            let file = File::open(path).map_err(io)?;
            // An empty file cannot be mapped, and is none of ours.
            if file.metadata().map_err(io)?.len() == 0 {
                Arc::new(Bytes::copy(&[]))
            } else {
                Arc::new(mmap::map(&file).map_err(io)?)
            }
        }
        Source::Read(path) => {
            let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
            Arc::new(Bytes::copy(&bytes))
        }
        Source::Bytes(bytes) => Arc::new(Bytes::copy(bytes)),
    };
    parse(&owner).map_err(|error| match source {
        Source::Map(path) | Source::Read(path) => match error {
            Error::Format(text) => Error::Format(format!("{}: {text}", path.display())),
            other => other,
        },
        Source::Bytes(_) => error,
    })
}

fn parse(owner: &Arc<dyn Owner>) -> Result<Graph> {
    let bytes = owner.bytes();
    ensure!(bytes.starts_with(&MAGIC), Format, "not a .goss file: it does not start with \"GOSSAMER\"");
    ensure!(
        bytes.len() >= PREFIX,
        Format,
        "truncated: {} bytes, the prefix alone takes {PREFIX}",
        bytes.len()
    );
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let version = word(8);
    ensure!(version != 0, Format, "version 0 does not exist");
    ensure!(
        version <= VERSION,
        Format,
        "written in version {version} of the format; this gossamer reads up to {VERSION}: install a newer one \
         (pip install -U gossamer)"
    );
    let length = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
    ensure!(length <= HEADER_MAX as u64, Format, "the header claims {length} bytes, more than {HEADER_MAX}");
    let end = PREFIX + length as usize;
    let text = bytes.get(PREFIX..end);
    let text = text.ok_or_else(|| {
        Error::Format(format!("truncated: {} bytes, the header ends at {end}", bytes.len()))
    })?;
    ensure!(agrees(text, word(12)), Format, "the header is damaged: its checksum does not agree");
    // A private copy: the map may change between checking and use.
    let text = text.to_vec();
    let header: Header =
        serde_json::from_slice(&text).map_err(|error| Error::Format(format!("header: {error}")))?;
    drop(text);

    let mut sections = Sections { owner, bytes, end };
    let mut graph =
        Graph { inputs: header.inputs, outputs: header.outputs, nodes: header.nodes, ..Graph::default() };
    for entry in header.tensors {
        let name = entry.name().to_owned();
        let tensor = sections.tensor(entry, &graph.tensors).map_err(|error| match error {
            Error::Format(text) => Error::Format(format!("tensor {name:?}: {text}")),
            other => other,
        })?;
        graph.tensors.push(tensor);
        graph.names.push(name);
    }
    ensure!(
        sections.end == bytes.len(),
        Format,
        "the file has {} bytes, its last section ends at {}",
        bytes.len(),
        sections.end
    );
    let examples: Vec<&[usize]> = graph.inputs.iter().map(|input| input.example.as_slice()).collect();
    let unsound = |error: Error| Error::Format(format!("the graph is not sound: {error}"));
    let inferred = graph.infer(&examples).map_err(unsound)?;
    graph.check_outputs(&inferred).map_err(unsound)?;
    Ok(graph)
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Entry::Plain { name, .. }
            | Entry::Dense { name, .. }
            | Entry::Sparse { name, .. }
            | Entry::LowRank { name, .. } => name,
        }
    }
}

/// Walks the sections: each must start where the one before ends, so there are no holes and no overlaps.
struct Sections<'a> {
    owner: &'a Arc<dyn Owner>,
    bytes: &'a [u8],
    end: usize,
}

impl Sections<'_> {
    fn take(&mut self, section: Section) -> Result<Bytes> {
        let start = self.end.next_multiple_of(ALIGN);
        ensure!(
            section.offset == start as u64,
            Format,
            "a section is at {}, expected {start}",
            section.offset
        );
        let end = usize::try_from(section.length).ok().and_then(|length| start.checked_add(length));
        let Some(end) = end.filter(|&end| end <= self.bytes.len()) else {
            return Err(Error::Format(format!(
                "truncated: a section of {} bytes at {start}, the file has {}",
                section.length,
                self.bytes.len()
            )));
        };
        ensure!(
            self.bytes[self.end..start].iter().all(|&b| b == 0),
            Format,
            "bytes between sections are not zero"
        );
        ensure!(
            agrees(&self.bytes[start..end], section.crc32),
            Format,
            "damaged: the checksum of the section at {start} does not agree"
        );
        self.end = end;
        Bytes::part(Arc::clone(self.owner), start, end - start)
    }

    /// Scales are copied: they are few.
    fn scales(&mut self, section: Option<Section>) -> Result<Option<Vec<f32>>> {
        let Some(section) = section else { return Ok(None) };
        let bytes = self.take(section)?;
        ensure!(bytes.len().is_multiple_of(4), Format, "scales: {} bytes are not whole floats", bytes.len());
        Ok(Some(bytemuck::cast_slice(&bytes).to_vec()))
    }

    /// An index array: checked later, so copied, and not needed where it was.
    fn copy(&mut self, section: Section) -> Result<Vec<u8>> {
        let bytes = self.take(section)?;
        let copy = bytes.to_vec();
        bytes.release();
        Ok(copy)
    }

    fn tensor(&mut self, entry: Entry, before: &[Tensor]) -> Result<Tensor> {
        let matrix = |matrix: Matrix| Ok(Tensor::Matrix(Arc::new(matrix)));
        match entry {
            Entry::Plain { dtype, shape, data, .. } => {
                let bytes = self.take(data)?;
                let sound = dtype != DType::Bool || bytes.iter().all(|&b| b <= 1);
                ensure!(sound, Format, "a bool is neither 0 nor 1");
                Ok(Tensor::Plain(Arc::new(Plain::new(dtype, shape, bytes)?)))
            }
            Entry::Dense { m, k, groups, dtype, values, scales, .. } => {
                let values = Values::new(dtype, self.take(values)?)?;
                let scales = self.scales(scales)?;
                matrix(Matrix::new(m, k, groups, Structure::Dense(values), scales)?)
            }
            Entry::Sparse {
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
                ..
            } => {
                let unit = Unit { height, width };
                // What a kernel makes of a matrix stays in proportion to the file where it has rows and wide blocks.
                ensure!(m > 0 && k > 0, Format, "a sparse matrix of {m} x {k}: an empty one is stored dense");
                ensure!(
                    block == BLOCK || block == BLOCK / 2,
                    Format,
                    "a block of {block} columns, expected {BLOCK} or half of it"
                );
                let (counts, indices) = (self.copy(counts)?, self.copy(indices)?);
                let values = Values::new(dtype, self.take(values)?)?;
                let scales = self.scales(scales)?;
                matrix(Matrix::sparse((m, k, groups), (unit, block), counts, indices, values, scales)?)
            }
            Entry::LowRank { u, v, .. } => {
                let part = |id: usize| match before.get(id) {
                    // Factors of factors would nest without end; one level is what factorization makes.
                    Some(Tensor::Matrix(part)) if !matches!(part.structure(), Structure::LowRank { .. }) => {
                        Ok(Arc::clone(part))
                    }
                    _ => Err(Error::Format(format!("factor {id} is no dense or sparse matrix before it"))),
                };
                let structure = Structure::LowRank { u: part(u)?, v: part(v)? };
                let (m, k) = match &structure {
                    Structure::LowRank { u, v } => (u.m(), v.k()),
                    _ => unreachable!("made one line above"),
                };
                matrix(Matrix::new(m, k, 1, structure, None)?)
            }
        }
    }
}
