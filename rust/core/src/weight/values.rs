//! Numbers and the bytes they are read from, wherever those lie.

use crate::error::{Result, ensure};
use crate::tensor::{DType, Shape, elements};
use half::f16;
use std::ops::Deref;
use std::sync::Arc;

/// What [`Bytes`] are parts of: a mapped file, or a buffer.
pub trait Owner: Send + Sync {
    /// All of it.
    fn bytes(&self) -> &[u8];

    /// Says that a part will hardly be read again, so that a map need not keep its pages in memory. It stays readable.
    fn release(&self, start: usize, len: usize) {
        let _ = (start, len);
    }
}

/// Bytes that somebody owns: a part of a mapped file, or of a buffer. Starts on a cache line.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    start: usize,
    len: usize,
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

/// A cache line; a vector of these is a buffer that starts on one.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

struct Lines(Vec<Line>);

impl Owner for Lines {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Owner for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn release(&self, start: usize, len: usize) {
        self.owner.release(self.start + start, len);
    }
}

impl Bytes {
    /// The range `start..start + len` of `owner`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where it is not all there, or not aligned to a cache line.
    pub fn part(owner: Arc<dyn Owner>, start: usize, len: usize) -> Result<Bytes> {
        let whole = owner.bytes();
        let part = start.checked_add(len).and_then(|end| whole.get(start..end));
        let aligned = part.is_some_and(|part| len == 0 || part.as_ptr().addr().is_multiple_of(64));
        ensure!(
            aligned,
            Format,
            "bytes {start}..+{len} are outside the {} there are, or misaligned",
            whole.len()
        );
        Ok(Bytes { owner, start, len })
    }

    /// A copy.
    pub fn copy(bytes: &[u8]) -> Bytes {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut::<_, u8>(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Bytes { owner: Arc::new(Lines(lines)), start: 0, len: bytes.len() }
    }
}

impl Bytes {
    /// Lets go of the memory behind them, where they are mapped: what needs them again reads them from the file.
    pub fn release(&self) {
        self.owner.release(self.start, self.len);
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.start..][..self.len]
    }
}

/// A matrix's values: one number for each place of its structure.
#[derive(Clone, Debug)]
pub struct Values {
    dtype: DType,
    pub(super) bytes: Bytes,
}

impl Values {
    /// Values of type float32, float16 or int8 over `bytes`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where the type is another or the bytes are not whole numbers of it.
    pub fn new(dtype: DType, bytes: Bytes) -> Result<Values> {
        ensure!(
            matches!(dtype, DType::Float32 | DType::Float16 | DType::Int8),
            Format,
            "weight values: {dtype} is not float32, float16 or int8"
        );
        ensure!(
            bytes.len().is_multiple_of(dtype.size()),
            Format,
            "weight values: {} bytes are not whole {dtype} numbers",
            bytes.len()
        );
        Ok(Values { dtype, bytes })
    }

    /// A copy of numbers.
    pub fn copy<T: Number>(values: &[T]) -> Values {
        Values { dtype: T::DTYPE, bytes: Bytes::copy(bytemuck::cast_slice(values)) }
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many are not zero.
    pub(super) fn non_zeros(&self) -> usize {
        match self.dtype {
            DType::Int8 => self.of::<i8>().iter().filter(|&&v| v != 0).count(),
            DType::Float16 => self.of::<f16>().iter().filter(|&&v| v != f16::ZERO).count(),
            _ => self.of::<f32>().iter().filter(|&&v| v != 0.0).count(),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The numbers.
    ///
    /// # Panics
    /// Where `T` is not their type.
    pub fn of<T: Number>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "values are read as what they are");
        bytemuck::cast_slice(&self.bytes)
    }
}

/// A type that weight values have.
pub trait Number: bytemuck::Pod + Default + PartialEq + Send + Sync {
    /// Its name.
    const DTYPE: DType;
}
impl Number for f32 {
    const DTYPE: DType = DType::Float32;
}
impl Number for f16 {
    const DTYPE: DType = DType::Float16;
}
impl Number for i8 {
    const DTYPE: DType = DType::Int8;
}

/// Plain numbers as torch lays them out: biases, tables, constants, depthwise filters.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
    /// The elements, last dimension fastest.
    pub bytes: Bytes,
}

impl Plain {
    /// A tensor over `bytes`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where they are not those of the shape.
    pub fn new(dtype: DType, shape: Shape, bytes: Bytes) -> Result<Plain> {
        let want = elements(&shape).ok().and_then(|n| n.checked_mul(dtype.size()));
        ensure!(want == Some(bytes.len()), Format, "tensor {shape:?} of {dtype}: got {} bytes", bytes.len());
        Ok(Plain { dtype, shape, bytes })
    }

    /// The elements.
    ///
    /// # Panics
    /// Where `T` is not of the size of the tensor's type.
    pub fn of<T: bytemuck::Pod>(&self) -> &[T] {
        assert_eq!(size_of::<T>(), self.dtype.size(), "elements are read as what they are");
        bytemuck::cast_slice(&self.bytes)
    }
}
