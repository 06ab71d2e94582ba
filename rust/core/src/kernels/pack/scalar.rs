//! `pack`, portable: each piece copied as such, in chunks as long as half of it at least, of which the last may overlap the
//! one before it.

#![allow(unsafe_code, reason = "planes are read and rows written through the pointers of the call")]

use super::{Fill, Piece};
use std::array::from_fn;

/// # Safety
/// See [`Run`](super::Run).
pub(super) unsafe fn run<T: Copy, const LANES: usize>(fill: &Fill<'_, T>) {
    let [h, w] = fill.taps.window.input();
    for v in 0..fill.taps.vectors {
        let pieces = fill.taps.pieces(fill.tap, v);
        let out = fill.out.wrapping_add(v * LANES);
        if !matches!(pieces, [piece] if usize::from(piece.len) == LANES) {
            for c in 0..fill.channels {
                // SAFETY: a row is whole vectors long.
                unsafe {
                    out.wrapping_add(c * fill.out_stride).cast::<[T; LANES]>().write([fill.padding; LANES]);
                };
            }
        }
        for piece in pieces {
            let stride = fill.taps.stride();
            let start = piece.src + (usize::from(piece.first) * stride) as isize;
            let call = Copies { fill, piece, from: fill.x.wrapping_offset(start), to: out };
            // Of a stride of 2 whole pairs are read: with what is after an element, or where that is not in the plane, with
            // what is before it.
            let end = start as usize + 2 * usize::from(piece.len);
            // SAFETY: a piece's lanes read inside the plane and are inside the vector.
            unsafe {
                match (stride, end <= h * w, start > 0) {
                    (1, ..) => call.chunks::<1, 0>(),
                    (2, true, _) => call.chunks::<2, 0>(),
                    (2, false, true) => call.chunks::<2, 1>(),
                    _ => call.single(stride),
                }
            }
        }
    }
}

/// What a piece is copied between, in each channel.
struct Copies<'a, T> {
    fill: &'a Fill<'a, T>,
    piece: &'a Piece,
    /// What the first lane reads of the first channel.
    from: *const T,
    /// The vector in the first channel's row.
    to: *mut T,
}

impl<T: Copy> Copies<'_, T> {
    /// Calls `copy(from, to, lanes)` for each channel.
    #[inline(always)]
    fn each(&self, copy: impl Fn(*const T, *mut T, usize)) {
        for c in 0..self.fill.channels {
            let from = self.from.wrapping_add(c * self.fill.pitch);
            let to = self.to.wrapping_add(c * self.fill.out_stride + usize::from(self.piece.first));
            copy(from, to, usize::from(self.piece.len));
        }
    }

    /// Of any stride.
    ///
    /// # Safety
    /// The piece's lanes read inside the plane and are inside the vector.
    unsafe fn single(&self, stride: usize) {
        self.each(|from, to, len| {
            for i in 0..len {
                // SAFETY: the caller's.
                unsafe { *to.add(i) = *from.add(i * stride) };
            }
        });
    }

    /// Of stride `S`, the lanes being the elements at `SHIFT` of every `S`.
    ///
    /// # Safety
    /// As for [`Self::single`]; the plane has all elements of every `S`.
    unsafe fn chunks<const S: usize, const SHIFT: usize>(&self) {
        // SAFETY: the caller's.
        unsafe {
            match self.piece.len {
                16.. => self.each(|from, to, len| copy::<T, 16, S, SHIFT>(from, to, len)),
                8.. => self.each(|from, to, len| copy::<T, 8, S, SHIFT>(from, to, len)),
                4.. => self.each(|from, to, len| copy::<T, 4, S, SHIFT>(from, to, len)),
                2.. => self.each(|from, to, len| copy::<T, 2, S, SHIFT>(from, to, len)),
                _ => self.each(|from, to, len| copy::<T, 1, S, SHIFT>(from, to, len)),
            }
        }
    }
}

/// Copies `len` lanes, `N` at least, `N` at a time.
///
/// # Safety
/// So many times `S` elements are readable from `SHIFT` before `from`, and so many are writable.
#[inline(always)]
unsafe fn copy<T: Copy, const N: usize, const S: usize, const SHIFT: usize>(
    from: *const T,
    to: *mut T,
    len: usize,
) {
    for i in (0..len).step_by(N) {
        let i = i.min(len - N);
        // SAFETY: the caller's; `[[T; S]; N]` is `N · S` elements.
        unsafe {
            let groups = from.sub(SHIFT).add(i * S).cast::<[[T; S]; N]>().read_unaligned();
            to.add(i).cast::<[T; N]>().write_unaligned(from_fn(|lane| groups[lane][SHIFT]));
        }
    }
}
