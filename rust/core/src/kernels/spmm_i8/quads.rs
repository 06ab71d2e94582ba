//! Four non-zeros of a row at a time: what the x86 tiers share.
//!
//! The four rows of the panel that four non-zeros name are interleaved in registers, which makes of them what a dense
//! panel would have held: four depths of a column side by side. Unpacking works within 128-bit lanes, so lane `l` of
//! sum `i` holds columns `16 l + 4 i ..`; sums stay in that order until the tier stores them.

#![allow(clippy::inline_always, reason = "what is not inlined is compiled without the tier's features")]

use std::arch::x86_64::{__m256i, _mm256_permute2x128_si256};

use super::Row;

impl Row<'_> {
    /// The non-zeros four by four, indices and values as the 32 bits that are broadcast. Where they are not a multiple of
    /// four, some of the first four come twice, the first time with the value 0.
    #[inline(always)]
    pub(super) fn quads(&self) -> impl Iterator<Item = ([u8; 4], i32)> {
        let odd = self.indices.len() % 4;
        let first = (odd > 0).then(|| {
            if let (Some(&indices), Some(&w)) = (self.indices.first_chunk(), self.values.first_chunk::<4>()) {
                (indices, u32::from_le_bytes(bytemuck::cast(w)) & !(!0 << (8 * odd)))
            } else {
                let index = |i: usize| self.indices[if i < odd { i } else { 0 }];
                let w = |i: usize| self.values.get(i).map_or(0, |&w| u32::from(w as u8) << (8 * i));
                (std::array::from_fn(index), w(0) | w(1) | w(2))
            }
        });
        let (indices, _) = self.indices[odd..].as_chunks::<4>();
        let (values, _) = self.values[odd..].as_chunks::<4>();
        let rest = indices.iter().zip(values).map(|(&indices, &w)| (indices, bytemuck::cast(w)));
        first.map(|(indices, w)| (indices, w as i32)).into_iter().chain(rest)
    }
}

/// Defines `$name(row, column, sums)`: the sums of a row, its non-zeros added, over the columns, a byte each, that a
/// register holds; `sums` is where earlier blocks left theirs, and where these are left unless the block is the last.
macro_rules! quad_row {
    (
        $name:ident, $features:literal, vector: $vector:ident,
        $load:ident, $load_sums:ident, $store_sums:ident, $splat:ident,
        $low8:ident, $high8:ident, $low16:ident, $high16:ident, weights: $weights:expr, dot: $dot:expr
    ) => {
        /// # Safety
        /// The panel has the row's indices, and the columns.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $name(row: &Row<'_>, column: usize, sums: &mut [i32; NR]) -> [$vector; 4] {
            /// Sums of a register.
            const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();
            let sums: &mut [i32; 4 * WIDTH] =
                sums[column..].first_chunk_mut().expect("a register of columns");
            let sums = sums.as_mut_ptr();
            let mut acc: [$vector; 4] = match row.start {
                Some(start) => [$splat(start); 4],
                // SAFETY: four registers of sums lie there.
                None => std::array::from_fn(|i| unsafe { $load_sums(sums.add(i * WIDTH).cast()) }),
            };
            let panel = row.panel.wrapping_add(column);
            for (indices, w) in row.quads() {
                let x = indices.map(|index| {
                    // SAFETY: the caller's.
                    unsafe { $load(panel.add(usize::from(index) * row.stride).cast()) }
                });
                let w = $weights(w);
                let (a, b) = ($low8(x[0], x[1]), $high8(x[0], x[1]));
                let (c, d) = ($low8(x[2], x[3]), $high8(x[2], x[3]));
                acc[0] = $dot(acc[0], $low16(a, c), w);
                acc[1] = $dot(acc[1], $high16(a, c), w);
                acc[2] = $dot(acc[2], $low16(b, d), w);
                acc[3] = $dot(acc[3], $high16(b, d), w);
            }
            if !row.last {
                for (i, &acc) in acc.iter().enumerate() {
                    // SAFETY: as they were loaded.
                    unsafe { $store_sums(sums.add(i * WIDTH).cast(), acc) };
                }
            }
            acc
        }
    };
}
pub(super) use quad_row;

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
