//! What the x86 tiers share: registers of columns, weights broadcast.

/// Defines `add(part, sums, finish)`: adds a part over `V` registers of columns. `sums` is where
/// earlier blocks left their sums and where these are left, except those of the last block, which go to
/// `finish(row, sums, at)`, `row` being of the tile and `at` the place in `sums`.
///
/// Fours of a row are dealt to `S` sums a register: more than one where so few registers would leave the multipliers waiting
/// for each other. Rows are short, and the next one is under way by itself.
macro_rules! add_fours {
    (
        $features:literal, vector: $vector:ident, $load:ident, $load_sums:ident, $store_sums:ident, $splat:ident,
        $add:ident, weights: $weights:expr, dot: $dot:expr
    ) => {
        /// # Safety
        /// The panel has the part's indices, and the columns.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn add<const V: usize, const S: usize>(
            part: &Part<'_, [i8; 4]>,
            sums: &mut Sums,
            finish: impl Fn(usize, [$vector; V], *mut i32),
        ) {
            /// Sums, and fours of bytes, of a register.
            const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();
            let (mut indices, mut values) = (part.indices, part.values);
            for (r, (&count, sums)) in part.counts.iter().zip(&mut sums.0).enumerate() {
                debug_assert!(V * WIDTH <= sums.len());
                let sums = sums.as_mut_ptr();
                let mut acc = [[$splat(0); V]; S];
                acc[0] = match part.start {
                    Some(start) => [$splat(start[r]); V],
                    // SAFETY: so many registers of sums lie there.
                    None => std::array::from_fn(|v| unsafe { $load_sums(sums.add(v * WIDTH).cast()) }),
                };
                let dot = |acc: &mut [$vector; V], index: u8, w: [i8; 4]| {
                    let x = part.panel.wrapping_add(usize::from(index) * part.stride);
                    let w = $weights(word(w));
                    for (v, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: the caller's.
                        let x = unsafe { $load(x.add(v * WIDTH * 4).cast()) };
                        *acc = $dot(*acc, x, w);
                    }
                };
                let ((row, below), (row_values, values_below)) =
                    (indices.split_at(count.into()), values.split_at(count.into()));
                (indices, values) = (below, values_below);
                let ((some, few), (some_values, few_values)) =
                    (row.as_chunks::<S>(), row_values.as_chunks::<S>());
                for (indices, values) in some.iter().zip(some_values) {
                    for s in 0..S {
                        dot(&mut acc[s], indices[s], values[s]);
                    }
                }
                for (s, (&index, &w)) in few.iter().zip(few_values).enumerate() {
                    dot(&mut acc[s], index, w);
                }
                let total: [$vector; V] =
                    std::array::from_fn(|v| acc[1..].iter().fold(acc[0][v], |sum, acc| $add(sum, acc[v])));
                if part.last {
                    finish(r, total, sums);
                } else {
                    for (v, &total) in total.iter().enumerate() {
                        // SAFETY: as they were loaded.
                        unsafe { $store_sums(sums.add(v * WIDTH).cast(), total) };
                    }
                }
            }
        }
    };
}
pub(super) use add_fours;

/// Defines `run` of a tier of sixteen columns a register: a row's bytes are stored from registers.
macro_rules! run_wide {
    ($features:literal, sums: [$few:literal, $many:literal]) => {
        #[target_feature(enable = $features)]
        unsafe fn run(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
            // SAFETY: the caller's.
            unsafe {
                match s.vectors() {
                    1 => rows::<1, $many>(s),
                    2 => rows::<2, $many>(s),
                    3 => rows::<3, $few>(s),
                    _ => rows::<4, $few>(s),
                }
            }
        }

        /// All rows, over `V` registers of columns.
        ///
        /// # Safety
        /// As [`StripI8Kernel`].
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn rows<const V: usize, const S: usize>(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
            // SAFETY: the caller's; sums are stored where they were, or as the strip's rows.
            unsafe {
                if let Output::U8 { .. } = s.requant.output {
                    let bytes = Bytes::new(s);
                    parts(s, |part, sums| {
                        add::<V, S>(part, sums, |r, sums, _| {
                            let mut all = [_mm512_setzero_si512(); NR / LANES];
                            all[..V].copy_from_slice(&sums);
                            bytes.store::<true, _>(s, part.r0 + r, all);
                        });
                    });
                } else {
                    parts(s, |part, sums| {
                        add::<V, S>(part, sums, |_, sums, at| at.cast::<[__m512i; V]>().write(sums));
                        if part.last {
                            store_rows(s, part.r0, &sums.0[..part.counts.len()]);
                        }
                    });
                }
            }
        }
    };
}
pub(super) use run_wide;

/// Defines `run` of a tier of eight columns a register.
macro_rules! run_narrow {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn run(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
            // SAFETY: the caller's.
            unsafe {
                match s.vectors() {
                    1 => rows::<2, 2>(s),
                    2 => rows::<4, 1>(s),
                    3 => rows::<6, 1>(s),
                    _ => rows::<8, 1>(s),
                }
            }
        }

        /// All rows, over `V` registers of columns.
        ///
        /// # Safety
        /// As [`StripI8Kernel`].
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn rows<const V: usize, const S: usize>(s: &StripI8<'_, SparseRows<'_, [i8; 4]>>) {
            // SAFETY: the caller's; sums are stored where they were, and once the tile's are complete, as the strip's rows.
            unsafe {
                parts(s, |part, sums| {
                    add::<V, S>(part, sums, |_, sums, at| at.cast::<[__m256i; V]>().write(sums));
                    if part.last {
                        store_sums(s, part.r0, &sums.0[..part.counts.len()]);
                    }
                });
            }
        }
    };
}
pub(super) use run_narrow;
