//! Shapes and element types: what a value is, apart from where it lies.

use crate::error::{Error, Result, ensure};
use serde::{Deserialize, Serialize};

/// An element type. The names are numpy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision.
    Float32,
    /// IEEE half precision; weights only.
    Float16,
    /// Two's complement, 64 bits.
    Int64,
    /// Two's complement, 32 bits.
    Int32,
    /// Unsigned bytes; int8 activations with a zero point.
    UInt8,
    /// Signed bytes; int8 weights.
    Int8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            DType::Int64 => 8,
            DType::Float32 | DType::Int32 => 4,
            DType::Float16 => 2,
            DType::UInt8 | DType::Int8 | DType::Bool => 1,
        }
    }

    /// numpy's name for it.
    pub fn name(self) -> &'static str {
        match self {
            DType::Float32 => "float32",
            DType::Float16 => "float16",
            DType::Int64 => "int64",
            DType::Int32 => "int32",
            DType::UInt8 => "uint8",
            DType::Int8 => "int8",
            DType::Bool => "bool",
        }
    }

    /// The type of that name.
    ///
    /// # Errors
    /// [`Error::Graph`] where there is none.
    pub fn parse(name: &str) -> Result<DType> {
        [DType::Float32, DType::Float16, DType::Int64, DType::Int32, DType::UInt8, DType::Int8, DType::Bool]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| Error::Graph(format!("dtype {name:?} is not one that gossamer computes with")))
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Sizes, outermost first; empty for a scalar.
pub type Shape = Vec<usize>;

/// The most dimensions of a value: numpy's limit.
pub const MAX_RANK: usize = 32;

/// The number of elements of a shape.
///
/// # Errors
/// [`Error::Shape`] where it has more than [`MAX_RANK`] dimensions, or those that are not zero multiply to more than `isize`
/// holds: then the product of any of them can be taken without a check, though the whole be empty.
pub fn elements(shape: &[usize]) -> Result<usize> {
    ensure!(
        shape.len() <= MAX_RANK,
        Shape,
        "{} dimensions, at most {MAX_RANK} are computed with",
        shape.len()
    );
    let most = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    ensure!(
        most.is_some_and(|n| isize::try_from(n).is_ok()),
        Shape,
        "shape {shape:?} has more elements than an address space holds"
    );
    Ok(shape.iter().product())
}

/// What is known of a value before it is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Element type.
    pub dtype: DType,
    /// Logical shape, as torch has it.
    pub shape: Shape,
}

impl Meta {
    /// A value of that type and shape.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Meta {
        Meta { dtype, shape: shape.into() }
    }

    /// Elements it has. Shapes that do not fit were refused when they were inferred.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes it takes in the plain layout.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit in an address space.
    pub fn bytes(&self) -> Result<usize> {
        let bytes = elements(&self.shape)?.checked_mul(self.dtype.size());
        bytes.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(|| {
            Error::Shape(format!("shape {:?} of {} does not fit in memory", self.shape, self.dtype))
        })
    }
}

impl std::fmt::Display for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// The shape two operands broadcast to, by numpy's rule.
///
/// # Errors
/// [`Error::Shape`] where a dimension differs and neither side is 1.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Shape> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |j| shape[j]);
    (0..rank)
        .map(|i| {
            let (p, q) = (dim(a, i), dim(b, i));
            ensure!(p == q || p == 1 || q == 1, Shape, "shapes {a:?} and {b:?} do not broadcast together");
            Ok(if p == 1 { q } else { p })
        })
        .collect()
}

/// How a value lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Contiguous, last dimension fastest.
    Plain,
    /// `[n][channels][pitch]` for a shape `(n, channels, *plane)`: every channel's plane starts on a cache line,
    /// so kernels load whole vectors of pixels. What lies between a plane's end and its pitch is undefined.
    Features,
    /// `[features][pitch]` for a shape `(*columns, features)`: as the planes of one image whose channels are the features, so
    /// that a product with a weight reads and writes its strips where they lie.
    Columns,
}

/// Bytes a plane's start is aligned to in [`Layout::Features`], and every buffer of the arena.
pub const ALIGN: usize = 64;

/// Planes that fit in any cache however their lines fall into its sets, and lines to which one more adds little.
const FEW: usize = 8;

/// Elements from one plane to the next in [`Layout::Features`] and [`Layout::Columns`], for planes of that many elements, one
/// a channel.
pub fn pitch(channels: usize, plane: usize, dtype: DType) -> usize {
    let line = ALIGN / dtype.size();
    let lines = plane.div_ceil(line);
    // An odd number of lines spreads what a product reads, the same few pixels of every channel, over all sets of a cache;
    // 112x112 planes side by side would share four of 64.
    let spread = channels > FEW && lines > FEW;
    (if spread { lines | 1 } else { lines }) * line
}

/// A shape `(n, channels, *plane)` taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Images, or sequences.
    pub n: usize,
    /// Channels.
    pub channels: usize,
    /// Elements of one channel of one image.
    pub plane: usize,
    /// Elements from one channel to the next.
    pub pitch: usize,
}

impl Planes {
    /// Of a value in the given layout.
    ///
    /// # Panics
    /// Where it is of rank below 2, or, as columns, below 1.
    pub fn of(meta: &Meta, layout: Layout) -> Planes {
        let (n, channels, plane): (_, _, &[usize]) = match (layout, &*meta.shape) {
            (Layout::Columns, [columns @ .., features]) => (1, *features, columns),
            (_, [n, channels, plane @ ..]) => (*n, *channels, plane),
            _ => panic!("{meta} has no channels"),
        };
        let plane = plane.iter().product();
        let pitch = match layout {
            Layout::Plain => plane,
            Layout::Features | Layout::Columns => pitch(channels, plane, meta.dtype),
        };
        Planes { n, channels, plane, pitch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast(&[3, 1, 5], &[4, 1]).unwrap(), [3, 4, 5]);
        assert_eq!(broadcast(&[], &[2]).unwrap(), [2]);
        assert_eq!(broadcast(&[0], &[1]).unwrap(), [0]);
        assert!(broadcast(&[3], &[4]).is_err());
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(elements(&[usize::MAX, 2]).is_err());
        assert!(elements(&[0, 1 << 40, 1 << 40]).is_err(), "empty, but its planes are not");
        assert_eq!(elements(&[1; MAX_RANK]).unwrap(), 1);
        assert!(elements(&[1; MAX_RANK + 1]).is_err());
        assert!(Meta::new(DType::Int64, [1 << 60, 4]).bytes().is_err());
    }

    #[test]
    fn a_pitch_is_whole_cache_lines_of_many_channels_an_odd_number() {
        assert_eq!(pitch(64, 49, DType::Float32), 64);
        assert_eq!(pitch(64, 196, DType::Float32), 208);
        assert_eq!(pitch(64, 196, DType::UInt8), 256);
        assert_eq!(pitch(64, 0, DType::UInt8), 0);
        assert_eq!(pitch(3, 224 * 224, DType::Float32), 224 * 224);
        assert_eq!(pitch(64, 112 * 112, DType::Float32), 112 * 112 + 16);
        assert_eq!(pitch(64, 112 * 112, DType::UInt8), 112 * 112 + 64);
    }

    #[test]
    fn columns_are_planes_of_features() {
        let meta = Meta::new(DType::Float32, [2, 7, 60]);
        let columns = Planes { n: 1, channels: 60, plane: 14, pitch: 16 };
        assert_eq!(Planes::of(&meta, Layout::Columns), columns);
        assert_eq!(Planes::of(&Meta::new(DType::Float32, [14, 60]), Layout::Columns), columns);
    }
}
