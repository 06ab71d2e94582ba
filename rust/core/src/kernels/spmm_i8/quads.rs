//! Four non-zeros of a row at a time: what the x86 tiers share.
//!
//! The four rows of the panel that four non-zeros name are interleaved in registers, which makes of them what a dense
//! panel would have held: four depths of a column side by side. Unpacking works within 128-bit lanes, so sum `i` holds
//! columns `16 l + 4 i ..` of lane `l`; the last block puts them in order, lane by lane, as it stores them.

/// Defines `$name(row, column, sums)`: adds a row's non-zeros over the columns, a byte each, that a register holds.
macro_rules! quad_row {
    (
        $name:ident, $features:literal, vector: $vector:ident, lanes: [$($lane:literal)+],
        $load:ident, $load_sums:ident, $store_sums:ident, $splat:ident, $extract:ident,
        $low8:ident, $high8:ident, $low16:ident, $high16:ident, weights: $weights:expr, dot: $dot:expr
    ) => {
        /// # Safety
        /// The panel has the row's indices, and the columns.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $name(row: &Row<'_>, column: usize, sums: &mut [i32; NR]) {
            /// Sums of a register.
            const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();
            let sums: &mut [i32; 4 * WIDTH] = sums[column..].first_chunk_mut().expect("a register of columns");
            let sums = sums.as_mut_ptr();
            let mut acc: [$vector; 4] = match row.start {
                Some(start) => [$splat(start); 4],
                // SAFETY: four registers of sums lie there.
                None => std::array::from_fn(|i| unsafe { $load_sums(sums.add(i * WIDTH).cast()) }),
            };
            let panel = row.panel.wrapping_add(column);
            for (indices, values) in row.quads() {
                let x = indices.map(|index| {
                    // SAFETY: the caller's.
                    unsafe { $load(panel.add(usize::from(index) * row.stride).cast()) }
                });
                let w = $weights(values);
                let (a, b) = ($low8(x[0], x[1]), $high8(x[0], x[1]));
                let (c, d) = ($low8(x[2], x[3]), $high8(x[2], x[3]));
                acc[0] = $dot(acc[0], $low16(a, c), w);
                acc[1] = $dot(acc[1], $high16(a, c), w);
                acc[2] = $dot(acc[2], $low16(b, d), w);
                acc[3] = $dot(acc[3], $high16(b, d), w);
            }
            for (i, acc) in acc.into_iter().enumerate() {
                // SAFETY: as they were loaded; a lane has four of a register's sixteen columns.
                unsafe {
                    if row.last {
                        $(_mm_storeu_si128(sums.add(16 * $lane + 4 * i).cast(), $extract::<$lane>(acc));)+
                    } else {
                        $store_sums(sums.add(i * WIDTH).cast(), acc);
                    }
                }
            }
        }
    };
}
pub(super) use quad_row;
