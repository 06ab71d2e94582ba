//! What AVX2 and AVX-512 without VNNI share: bytes multiplied by `vpmaddubsw`, which saturates, where it cannot.
//!
//! Its sums of two products are in 16 bits; `vpmaddwd` by ones widens them. [`Fitted`](super::Fitted) says which weights
//! they are exact for, and which pairs of them may be added before they are widened. What is left is multiplied in 16 bits
//! by `vpmaddwd`, the panel's bytes split into even and odd ones: `x & 0xff` and `x >> 8`.

/// Defines a tier: its vector, how a strip's vectors of columns are cut into passes.
macro_rules! saturating_tier {
    (
        $features:literal, $token:ident, vector: $vector:ident,
        $load:ident, $store:ident, $splat:ident, $splat16:ident, $and:ident, $shift:ident::<8>,
        $maddubs:ident, $madd:ident, $add16:ident, $add:ident, $store_rows:path,
        passes($vectors:ident, $pass:ident): $passes:expr
    ) => {
        use super::fitted::{ROWS, Steps};
        use super::{ByFit, Fitted};
        use crate::isa::$token;
        use crate::kernels::strip_i8::{BLOCK_QUADS, Block, StripI8, Sums, blocks, interleave};
        use crate::weight::QUAD;

        /// Columns of a register.
        const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();

        pub(super) fn get() -> Option<ByFit> {
            $token::detect().map(|_| ByFit { run, pack, gathers: None })
        }

        #[target_feature(enable = $features)]
        unsafe fn pack(rows: &[*const u8], n: usize, panel: *mut u8, stride: usize) {
            // SAFETY: the caller's.
            unsafe { interleave(rows, n, panel, stride, 0) };
        }

        #[target_feature(enable = $features)]
        unsafe fn run(s: &StripI8<'_, &Fitted>) {
            let $vectors = s.vectors();
            // SAFETY: the caller's; a block has the rows and columns that its passes name.
            unsafe {
                blocks(
                    s,
                    s.weight.quads(),
                    |place, block, sums| {
                        for r0 in (0..block.rows).step_by(ROWS) {
                            let steps = s.weight.steps(place.tile, place.quads.start / BLOCK_QUADS, r0);
                            macro_rules! $pass {
                                ($v:literal, $column:expr) => {
                                    pass::<$v>(&block, &steps, r0, $column, sums)
                                };
                            }
                            $passes
                        }
                    },
                    |r0, sums| $store_rows(s, r0, sums),
                );
            }
        }

        /// Adds a block's rows from `r0` over `V` registers of columns from `column`.
        ///
        /// # Safety
        /// The panel has the columns, and the groups of four depths that the steps name.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn pass<const V: usize>(
            block: &Block<'_>,
            steps: &Steps<'_>,
            r0: usize,
            column: usize,
            sums: &mut Sums,
        ) {
            let rows: &mut [_; ROWS] = sums.0[r0..].first_chunk_mut().expect("a pass stays within a tile");
            let mut acc = [[$splat(0); V]; ROWS];
            for (r, (acc, row)) in acc.iter_mut().zip(rows.iter()).enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = match &block.start {
                        Some(start) => $splat(start[r0 + r]),
                        // SAFETY: a row of sums has the columns, aligned as `Sums` is.
                        None => unsafe { $load(row.as_ptr().add(column + v * WIDTH).cast()) },
                    };
                }
            }
            let (panel, stride) = (block.panel.wrapping_add(column * QUAD), block.stride * QUAD);
            macro_rules! load {
                ($place:expr) => {{
                    let group = panel.wrapping_add(usize::from($place) * stride);
                    let mut x = [$splat(0); V];
                    for (v, x) in x.iter_mut().enumerate() {
                        // SAFETY: the panel has V registers of columns of the group.
                        *x = unsafe { $load(group.add(v * WIDTH * QUAD).cast()) };
                    }
                    x
                }};
            }
            let one = $splat16(1);
            for (&[a, b], [wa, wb]) in steps.twos.0.iter().zip(steps.twos.1) {
                let (a, b) = (load!(a), load!(b));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let (wa, wb) = ($splat(wa[r]), $splat(wb[r]));
                    for (v, acc) in acc.iter_mut().enumerate() {
                        let pairs = $add16($maddubs(a[v], wa), $maddubs(b[v], wb));
                        *acc = $add(*acc, $madd(pairs, one));
                    }
                }
            }
            for (&place, w) in steps.ones.0.iter().zip(steps.ones.1) {
                let x = load!(place);
                for (acc, &w) in acc.iter_mut().zip(w) {
                    let w = $splat(w);
                    for (acc, &x) in acc.iter_mut().zip(&x) {
                        *acc = $add(*acc, $madd($maddubs(x, w), one));
                    }
                }
            }
            let low = $splat16(0xff);
            for (&[place, _], [even, odd]) in steps.wide.0.iter().zip(steps.wide.1) {
                let (mut a, mut b) = (load!(place), [$splat(0); V]);
                for (a, b) in a.iter_mut().zip(&mut b) {
                    (*a, *b) = ($and(*a, low), $shift::<8>(*a));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let (even, odd) = ($splat(even[r]), $splat(odd[r]));
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = $add(*acc, $madd(a[v], even));
                        *acc = $add(*acc, $madd(b[v], odd));
                    }
                }
            }
            for (acc, row) in acc.iter().zip(rows.iter_mut()) {
                for (v, &acc) in acc.iter().enumerate() {
                    // SAFETY: as they were loaded.
                    unsafe { $store(row.as_mut_ptr().add(column + v * WIDTH).cast(), acc) };
                }
            }
        }
    };
}
pub(super) use saturating_tier;
