//! Copies that change how a value lies in memory: transposes, permutations, broadcasts and slices made contiguous, planes
//! set apart by their pitch.
//!
//! Transposes of 4-byte elements go by square tiles held in registers ([`TABLE`]); a tile's rows are whole cache lines where
//! the tier can. Other sizes go by tiles too, in plain Rust.

#![allow(unsafe_code, reason = "tiles are read and written through pointers with strides")]

use crate::isa::Tier;
use crate::kernels::Impl;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// A kernel: `y[c · y_stride + r] = x[r · x_stride + c]` for `r < rows`, `c < columns`.
///
/// # Safety
/// These elements of `x` are readable and of `y` writable, aligned to 4; `x` and `y` do not overlap.
pub type TransposeFn =
    unsafe fn(x: *const u32, x_stride: usize, y: *mut u32, y_stride: usize, rows: usize, columns: usize);

/// The implementations.
pub static TABLE: &[Impl<TransposeFn>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::run) },
];

/// Rows of `x` that are read side by side, a cache line of each at a time: no more than the first-level TLB has pages.
const BLOCK: usize = 64;

/// Cuts a transpose into tiles of `N × N` and what is left at the edges.
///
/// # Safety
/// That of [`TransposeFn`], of elements `T`; `tile` transposes `N × N` elements.
unsafe fn tiled<T: Copy, const N: usize>(
    x: *const T,
    x_stride: usize,
    y: *mut T,
    y_stride: usize,
    rows: usize,
    columns: usize,
    tile: unsafe fn(*const T, usize, *mut T, usize),
) {
    let (whole_rows, whole_columns) = (rows - rows % N, columns - columns % N);
    // SAFETY: every element named lies within `rows` and `columns`.
    unsafe {
        for block in (0..whole_rows).step_by(BLOCK) {
            for c in (0..whole_columns).step_by(N) {
                for r in (block..whole_rows.min(block + BLOCK)).step_by(N) {
                    tile(x.add(r * x_stride + c), x_stride, y.add(c * y_stride + r), y_stride);
                }
            }
        }
        let element = |r: usize, c: usize| *y.add(c * y_stride + r) = *x.add(r * x_stride + c);
        for c in 0..columns {
            for r in if c < whole_columns { whole_rows } else { 0 }..rows {
                element(r, c);
            }
        }
    }
}

/// Rows and columns of `x` exchanged: `y[c · y_stride + r] = x[r · x_stride + c]`. What lies between a row's end and its
/// stride stays.
///
/// # Panics
/// Where a slice is shorter than its rows, or a stride than its row.
pub fn transpose<T: bytemuck::Pod>(
    kernel: TransposeFn,
    (rows, columns): (usize, usize),
    (x, x_stride): (&[T], usize),
    (y, y_stride): (&mut [T], usize),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= x_stride && rows <= y_stride, "a stride is at least a row");
    assert!((rows - 1) * x_stride + columns <= x.len(), "rows of x");
    assert!((columns - 1) * y_stride + rows <= y.len(), "rows of y");
    // SAFETY: the last element of each was found within its slice; a mutable slice overlaps no other.
    unsafe { transpose_any(kernel, x.as_ptr(), x_stride, y.as_mut_ptr(), y_stride, rows, columns) }
}

/// # Safety
/// That of [`TransposeFn`], of elements `T`.
unsafe fn transpose_any<T: bytemuck::Pod>(
    kernel: TransposeFn,
    x: *const T,
    x_stride: usize,
    y: *mut T,
    y_stride: usize,
    rows: usize,
    columns: usize,
) {
    // SAFETY: the caller's; elements of 4 bytes are aligned to at most 4, which is what the kernel asks of u32.
    unsafe {
        match (size_of::<T>(), align_of::<T>()) {
            (4, 4) => kernel(x.cast(), x_stride, y.cast(), y_stride, rows, columns),
            (1, _) => {
                tiled::<u8, 8>(x.cast(), x_stride, y.cast(), y_stride, rows, columns, scalar::tile_u8);
            }
            _ => tiled::<T, 8>(x, x_stride, y, y_stride, rows, columns, scalar::tile::<T, 8>),
        }
    }
}

/// `y`, contiguous, has axis `axes[i]` of `x`, contiguous of that shape, as its axis `i`.
///
/// # Panics
/// Where `axes` is not a permutation of the shape's, or a length differs from the shape's.
pub fn permute<T: bytemuck::Pod>(kernel: TransposeFn, shape: &[usize], axes: &[usize], x: &[T], y: &mut [T]) {
    let mut seen = vec![false; shape.len()];
    for &axis in axes {
        seen[axis] = true;
    }
    assert!(
        axes.len() == shape.len() && seen.iter().all(|&seen| seen),
        "{axes:?} permutes the axes of {shape:?}"
    );
    assert_eq!(x.len(), shape.iter().product::<usize>(), "elements of x");
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    let to: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let strides: Vec<usize> = axes.iter().map(|&axis| strides[axis]).collect();
    gather(kernel, &to, &strides, x, y);
}

/// `y`, contiguous of that shape, from elements of `x` that lie `strides` apart: a permutation, a broadcast (stride 0), a
/// slice (`x` from its first element on).
///
/// # Panics
/// Where the strides lead past the end of `x`, or `y` is not of the shape.
pub fn gather<T: bytemuck::Pod>(
    kernel: TransposeFn,
    shape: &[usize],
    strides: &[usize],
    x: &[T],
    y: &mut [T],
) {
    assert_eq!(shape.len(), strides.len());
    assert_eq!(y.len(), shape.iter().product::<usize>(), "elements of y");
    if y.is_empty() {
        return;
    }
    let last: usize = shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum();
    assert!(last < x.len(), "strides {strides:?} of {shape:?} lead past {} elements", x.len());

    // Neighbouring dimensions that advance as one become one.
    let mut dims: Vec<(usize, usize)> = Vec::new();
    for (&size, &stride) in shape.iter().zip(strides).filter(|(size, _)| **size != 1) {
        match dims.last_mut() {
            Some(last) if last.1 == stride * size => *last = (last.0 * size, stride),
            _ => dims.push((size, stride)),
        }
    }
    let Some(&(columns, step)) = dims.last() else {
        y[0] = x[0];
        return;
    };
    let outer = &dims[..dims.len() - 1];
    // A transpose of the last dimension and the one that is contiguous in x.
    if step > 1
        && let Some(across) = outer.iter().position(|&(_, stride)| stride == 1)
    {
        let y_strides = contiguous(&dims);
        let planes: Vec<_> = (0..outer.len()).filter(|&i| i != across).collect();
        let mut counter = Counter::new(planes.iter().map(|&i| (dims[i].0, [dims[i].1, y_strides[i]])));
        while let Some([from, to]) = counter.next() {
            let (rows, columns) = (columns, outer[across].0);
            // SAFETY: the offsets are of elements that were found to lie within x and y, as are the plane's.
            unsafe {
                let (x, y) = (x.as_ptr().add(from), y.as_mut_ptr().add(to));
                transpose_any(kernel, x, step, y, y_strides[across], rows, columns);
            }
        }
        return;
    }
    let mut counter = Counter::new(outer.iter().map(|&(size, stride)| (size, [stride, 0])));
    for row in y.chunks_exact_mut(columns) {
        let [from, _] = counter.next().expect("as many rows as y has");
        match step {
            0 => row.fill(x[from]),
            1 => row.copy_from_slice(&x[from..][..columns]),
            _ => row.iter_mut().zip(x[from..].iter().step_by(step)).for_each(|(y, x)| *y = *x),
        }
    }
}

/// The strides of a contiguous array of these sizes.
fn contiguous(dims: &[(usize, usize)]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i].0;
    }
    strides
}

/// Walks all indices of some dimensions, the last fastest, and gives two offsets of each.
struct Counter {
    dims: Vec<(usize, [usize; 2])>,
    index: Vec<usize>,
    at: [usize; 2],
    left: usize,
}

impl Counter {
    fn new(dims: impl Iterator<Item = (usize, [usize; 2])>) -> Counter {
        let dims: Vec<_> = dims.collect();
        let left = dims.iter().map(|(size, _)| size).product();
        Counter { index: vec![0; dims.len()], dims, at: [0; 2], left }
    }

    fn next(&mut self) -> Option<[usize; 2]> {
        self.left = self.left.checked_sub(1)?;
        let now = self.at;
        for (i, &(size, strides)) in self.dims.iter().enumerate().rev() {
            self.index[i] += 1;
            self.at[0] += strides[0];
            self.at[1] += strides[1];
            if self.index[i] < size {
                break;
            }
            self.index[i] = 0;
            self.at[0] -= size * strides[0];
            self.at[1] -= size * strides[1];
        }
        Some(now)
    }
}

/// Copies planes that are `from` elements apart to planes that are `to` apart: plain to features, or back. What lies
/// between a plane's end and the next stays.
///
/// # Panics
/// Where a plane is longer than a pitch, or a slice shorter than its planes.
pub fn repitch<T: Copy>(planes: usize, plane: usize, (x, from): (&[T], usize), (y, to): (&mut [T], usize)) {
    assert!(plane <= from && plane <= to, "a pitch is at least a plane");
    if plane == 0 || planes == 0 {
        return;
    }
    assert!(
        (planes - 1) * from + plane <= x.len() && (planes - 1) * to + plane <= y.len(),
        "planes of x and y"
    );
    if from == plane && to == plane {
        y[..planes * plane].copy_from_slice(&x[..planes * plane]);
        return;
    }
    for (y, x) in y.chunks_mut(to).zip(x.chunks(from)).take(planes) {
        y[..plane].copy_from_slice(&x[..plane]);
    }
}

#[cfg(test)]
mod tests;
