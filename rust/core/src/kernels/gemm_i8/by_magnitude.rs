//! What AVX2 and AVX-512 without VNNI share: magnitudes of weights multiplied by `vpmaddubsw`.
//!
//! [`Magnitudes`](super::Magnitudes) says how its sums of two products stay within 16 bits; `vpmaddwd` by signs widens
//! them. A block of the depth of the panel becomes images that differ in signs, and each row passes over them with its sums
//! in registers: which image a group of weights takes differs from row to row, so activations are operands in memory.

/// Defines a tier: its vector, and the passes of up to as many vectors as a strip has.
macro_rules! magnitudes_tier {
    (
        $features:literal, $token:ident, vector: $vector:ident,
        $load:ident, $store:ident, $splat:ident, $xor:ident, $maddubs:ident, $madd:ident, $add16:ident, $add:ident,
        $store_sums:path, passes: [$($v:literal),+]
    ) => {
        use std::mem::MaybeUninit;

        use super::magnitudes::{BLOCK, FLIPS, IMAGE, IMAGES, Rows, SIGNS, Steps};
        use super::{ByMagnitude, Magnitudes};
        use crate::isa::$token;
        use crate::kernels::strip_i8::avx2::interleave;
        use crate::kernels::strip_i8::{LANES, NR, StripI8};
        use crate::weight::{QUAD, TILE};

        /// Columns of a register.
        const WIDTH: usize = size_of::<$vector>() / size_of::<i32>();

        /// Rows that are computed from the same images: enough that making these is little beside it.
        const ROWS: usize = 16 * TILE;

        /// The images of a block.
        #[repr(C, align(64))]
        struct Images([[[u8; IMAGE]; IMAGES]; BLOCK]);

        /// Sums of a strip.
        #[repr(C, align(64))]
        struct Sums([[i32; NR]; ROWS]);

        pub(super) fn get() -> Option<ByMagnitude> {
            $token::detect().map(|_| ByMagnitude { run, pack: interleave, gathers: None })
        }

        #[target_feature(enable = $features)]
        unsafe fn run(s: &StripI8<'_, &Magnitudes>) {
            let mut images = MaybeUninit::<Images>::uninit();
            let images = images.as_mut_ptr().cast::<u8>();
            let mut sums = MaybeUninit::<Sums>::uninit();
            let sums = sums.as_mut_ptr().cast::<[i32; NR]>();
            for first in s.rows().step_by(ROWS) {
                let last = s.rows.1.min(first + ROWS);
                if s.vectors() * LANES < NR {
                    // SAFETY: sums have the rows. What no pass writes is nevertheless read.
                    unsafe { sums.write_bytes(0, last - first) };
                }
                for block in 0..s.weight.blocks() {
                    let groups = (s.weight.quads() - block * BLOCK).min(BLOCK);
                    let panel = s.panel.wrapping_add(block * BLOCK * s.panel_stride * QUAD);
                    let vectors = s.n.div_ceil(WIDTH);
                    // SAFETY: the panel has the block's groups, and columns up to the next multiple of LANES; images and sums
                    // have room.
                    unsafe {
                        flip((panel, s.panel_stride), groups, vectors, images);
                        for r0 in (first..last).step_by(TILE) {
                            let count = TILE.min(last - r0);
                            let mut start = [0; TILE];
                            for (r, start) in start[..count].iter_mut().enumerate() {
                                *start = s.requant.offset[r0 + r].wrapping_add(s.weight.added()[r0 + r]);
                            }
                            let start = (block == 0).then_some(&start);
                            let rows = s.weight.rows(block, r0 / TILE);
                            let sums = sums.add(r0 - first).cast::<i32>();
                            match vectors {
                                $($v => pass::<$v>(images, rows, count, start, sums),)+
                                _ => unreachable!("a strip has {NR} columns at most"),
                            }
                        }
                    }
                }
                // SAFETY: all of these rows' sums have been written.
                unsafe { $store_sums(s, first, std::slice::from_raw_parts(sums, last - first)) };
            }
        }

        /// Makes the images of some vectors of columns.
        ///
        /// # Safety
        /// The panel has the groups and columns, `images` room for all.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn flip((panel, stride): (*const u8, usize), groups: usize, vectors: usize, images: *mut u8) {
            let flips = FLIPS.map(|flip| $splat(bytemuck::cast(flip)));
            for group in 0..groups {
                for v in 0..vectors {
                    // SAFETY: the caller's.
                    unsafe {
                        let x = $load(panel.add((group * stride + v * WIDTH) * QUAD).cast());
                        for (image, &flip) in flips.iter().enumerate() {
                            let to = images.add((group * IMAGES + image) * IMAGE + v * WIDTH * QUAD);
                            $store(to.cast(), $xor(x, flip));
                        }
                    }
                }
            }
        }

        /// Adds a block's rows over `V` registers of columns: to `start` where it is given, to the sums otherwise.
        ///
        /// # Safety
        /// There are so many rows, and `images` of what they name; each row of sums has the columns, up to the next multiple
        /// of LANES.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn pass<const V: usize>(
            images: *const u8,
            rows: Rows<'_>,
            count: usize,
            start: Option<&[i32; TILE]>,
            sums: *mut i32,
        ) {
            for r in 0..count {
                let Steps { twos, ones } = rows.steps(r);
                let sums = sums.wrapping_add(r * NR);
                let mut acc = [$splat(0); V];
                match start {
                    Some(start) => {
                        acc = [$splat(start[r]); V];
                        if !(V * WIDTH).is_multiple_of(LANES) {
                            // SAFETY: the caller's.
                            unsafe { $store(sums.add(V * WIDTH).cast(), acc[0]) };
                        }
                    }
                    None => {
                        for (v, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: the caller's.
                            *acc = unsafe { $load(sums.add(v * WIDTH).cast()) };
                        }
                    }
                }
                let signs = |which: u8| {
                    // SAFETY: steps name no others.
                    $splat(bytemuck::cast(*unsafe { SIGNS.get_unchecked(usize::from(which)) }))
                };
                let of = |image: u16| images.wrapping_add(image.into());
                for ((&[x, y], &[wx, wy]), &which) in twos.0.iter().zip(twos.1).zip(twos.2) {
                    let (x, y, signs) = (of(x), of(y), signs(which));
                    let (wx, wy) = ($splat(wx.cast_signed()), $splat(wy.cast_signed()));
                    for (v, acc) in acc.iter_mut().enumerate() {
                        let at = v * WIDTH * QUAD;
                        // SAFETY: the caller's.
                        let (x, y) = unsafe { ($load(x.add(at).cast()), $load(y.add(at).cast())) };
                        let pairs = $add16($maddubs(wx, x), $maddubs(wy, y));
                        *acc = $add(*acc, $madd(pairs, signs));
                    }
                }
                for ((&x, &w), &which) in ones.0.iter().zip(ones.1).zip(ones.2) {
                    let (x, w, signs) = (of(x), $splat(w.cast_signed()), signs(which));
                    for (v, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: the caller's.
                        let x = unsafe { $load(x.add(v * WIDTH * QUAD).cast()) };
                        *acc = $add(*acc, $madd($maddubs(w, x), signs));
                    }
                }
                for (v, &acc) in acc.iter().enumerate() {
                    // SAFETY: the caller's.
                    unsafe { $store(sums.add(v * WIDTH).cast(), acc) };
                }
            }
        }
    };
}
pub(super) use magnitudes_tier;
