//! `pack`, portable: each run copied as such.

#![allow(unsafe_code, reason = "rows of a panel are written through the pointers of the call")]

use super::Fill;

/// # Safety
/// See [`Run`](super::Run).
pub(super) unsafe fn run<T: Copy, const LANES: usize>(fill: &Fill<'_, T>) {
    let stride = fill.taps.stride();
    for v in 0..fill.taps.vectors {
        let pieces = fill.taps.pieces(fill.tap, v);
        let whole = matches!(pieces, [piece] if usize::from(piece.len) == LANES);
        for c in 0..fill.channels {
            let (x, out) =
                (fill.x.wrapping_add(c * fill.pitch), fill.out.wrapping_add(c * fill.out_stride + v * LANES));
            if !whole {
                // SAFETY: a row is whole vectors long.
                unsafe { std::slice::from_raw_parts_mut(out, LANES) }.fill(fill.padding);
            }
            for piece in pieces {
                let (first, len) = (usize::from(piece.first), usize::from(piece.len));
                let from = x.wrapping_offset(piece.src + (first * stride) as isize);
                let to = out.wrapping_add(first);
                if stride == 1 {
                    // SAFETY: a piece's lanes read inside the plane and are inside the vector.
                    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
                } else {
                    for i in 0..len {
                        // SAFETY: as above.
                        unsafe { *to.add(i) = *from.add(i * stride) };
                    }
                }
            }
        }
    }
}
