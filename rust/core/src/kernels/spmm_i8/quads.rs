//! Four non-zeros of a row at a time: what the x86 tiers share.
//!
//! The four rows of the panel that four non-zeros name are interleaved in registers, which makes of them what a dense
//! panel would have held: four depths of a column side by side. Unpacking works within 128-bit lanes, so lane `l` of
//! sum `i` holds columns `16 l + 4 i ..`; sums stay in that order until the tier stores them.

use std::arch::x86_64::{__m256i, _mm256_permute2x128_si256};

use crate::kernels::strip_i8::word;

/// Fewer than four non-zeros, the last of a part, as four: what pads them has the value 0 and an index of theirs.
#[cold]
fn padded(indices: &[u8], values: &[i8]) -> ([u8; 4], [i8; 4]) {
    let at = |i: usize| i.min(indices.len() - 1);
    (std::array::from_fn(|i| indices[at(i)]), std::array::from_fn(|i| values.get(i).copied().unwrap_or(0)))
}

/// The next `odd` non-zeros, one to three, as four: indices, and values as the 32 bits that are broadcast. What follows
/// them is of the same block, and counts for nothing.
#[inline]
pub(super) fn rest(indices: &[u8], values: &[i8], odd: usize) -> ([u8; 4], i32) {
    let (indices, values) = match (indices.first_chunk(), values.first_chunk()) {
        (Some(&indices), Some(&values)) => (indices, values),
        _ => padded(indices, values),
    };
    (indices, word(values) & !(!0 << (8 * odd)))
}

/// Defines `$name(part, column, sums, finish)`: adds a part over the columns, a byte each, that a register holds. `sums` is
/// where earlier blocks left their sums and where these are left, except those of the last block, which go to
/// `finish(row, sums, at)`, `row` being of the tile and `at` the place in `sums`.
macro_rules! quad_part {
    (
        $name:ident, $features:literal, vector: $vector:ident,
        $load:ident, $load_sums:ident, $store_sums:ident, $splat:ident,
        $low8:ident, $high8:ident, $low16:ident, $high16:ident, weights: $weights:expr, dot: $dot:expr
    ) => {
        /// # Safety
        /// The panel has the part's indices, and the columns.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn $name(
            part: &Part<'_, i8>,
            column: usize,
            sums: &mut Sums,
            finish: impl Fn(usize, [$vector; 4], *mut i32),
        ) {
            /// Sums of a register.
            const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();
            let panel = part.panel.wrapping_add(column);
            let (mut indices, mut values) = (part.indices, part.values);
            for (r, (&count, sums)) in part.counts.iter().zip(&mut sums.0).enumerate() {
                let sums: &mut [i32; 4 * WIDTH] = sums[column..].first_chunk_mut().expect("some columns");
                let sums = sums.as_mut_ptr();
                let mut acc: [$vector; 4] = match part.start {
                    Some(start) => [$splat(start[r]); 4],
                    // SAFETY: four registers of sums lie there.
                    None => std::array::from_fn(|i| unsafe { $load_sums(sums.add(i * WIDTH).cast()) }),
                };
                let add = |acc: [$vector; 4], indices: [u8; 4], w: i32| {
                    let x = indices.map(|index| {
                        // SAFETY: the caller's.
                        unsafe { $load(panel.add(usize::from(index) * part.stride).cast()) }
                    });
                    let w = $weights(w);
                    let (a, b) = ($low8(x[0], x[1]), $high8(x[0], x[1]));
                    let (c, d) = ($low8(x[2], x[3]), $high8(x[2], x[3]));
                    [
                        $dot(acc[0], $low16(a, c), w),
                        $dot(acc[1], $high16(a, c), w),
                        $dot(acc[2], $low16(b, d), w),
                        $dot(acc[3], $high16(b, d), w),
                    ]
                };
                let whole = usize::from(count) / 4 * 4;
                let quads = indices[..whole].as_chunks().0.iter().zip(values[..whole].as_chunks().0);
                for (&indices, &w) in quads {
                    acc = add(acc, indices, word(w));
                }
                (indices, values) = (&indices[whole..], &values[whole..]);
                let odd = usize::from(count) % 4;
                if odd > 0 {
                    let (quad, w) = super::quads::rest(indices, values, odd);
                    acc = add(acc, quad, w);
                    (indices, values) = (&indices[odd..], &values[odd..]);
                }
                if part.last {
                    finish(r, acc, sums);
                } else {
                    for (i, &acc) in acc.iter().enumerate() {
                        // SAFETY: as they were loaded.
                        unsafe { $store_sums(sums.add(i * WIDTH).cast(), acc) };
                    }
                }
            }
        }
    };
}
pub(super) use quad_part;

/// Puts the sums of 32 columns in order.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn in_order([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    [
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x20>(c, d),
        _mm256_permute2x128_si256::<0x31>(a, b),
        _mm256_permute2x128_si256::<0x31>(c, d),
    ]
}
