//! A dense int8 convolution of a packed image, in which a pixel's channels lie side by side.
//!
//! The arithmetic is that of [`strip_i8`](super::strip_i8), the sum being over channels and taps. Where `gemm_i8` reads a
//! panel in which every tap has what it sees, here all taps read one image, each from a place of its own: it is packed
//! once, for nine taps as for one. Exact, hence equal, on every tier.
//!
//! ```text
//! image    [blocks][pixels][64]            64 channels, or fewer, of the pixels of some rows, the window's padding included
//! filters  [⌈m/16⌉][blocks][taps][⌈depth/4⌉][16][4]
//! ```
//!
//! Pixels of the output are computed a [`Tile`] at a time: some that lie side by side in a row.

use super::strip_i8::{NR, StripI8};
use super::{Impl, window::Window2};
use crate::isa::Tier;
use crate::weight::{QUAD, TILE};

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod pack;
mod scalar;

/// Channels of a block, and bytes from one pixel of a block to the next.
pub const DEPTH: usize = 64;

/// Most tiles of a strip, which together have no more than [`NR`] pixels.
pub const TILES: usize = NR / TILE;

/// How an image is cut into blocks, rows and tiles.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    window: Window2,
    channels: usize,
    blocks: usize,
    /// Groups of four channels of a block.
    quads: usize,
    /// Pixels of a packed row.
    width: usize,
    /// Bytes from one block to the next.
    apart: usize,
    /// Tiles of a row of the output.
    across: usize,
    /// Pixels of a tile.
    len: usize,
}

/// Some pixels of a row of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Where the first tap sees the first of them, in bytes from the image's start.
    pub from: usize,
    /// The first of them, counted from that of the band.
    pub at: usize,
}

impl Packing {
    /// Of images that are packed in bands of at most `rows` rows of the output, which has at least one pixel.
    ///
    /// `None` where a band would be larger than an address space: paddings and dilations are sizes that a file names.
    pub fn new(window: &Window2, channels: usize, rows: usize) -> Option<Packing> {
        let blocks = channels.div_ceil(DEPTH).max(1);
        let reach = |axis: usize| (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        // All columns of the plane: pixels that follow each other then do so in the plane, the padding left out.
        let width = ((window.ow - 1) * window.stride[1] + reach(1)).max(window.pad[1] + window.w);
        let across = window.ow.div_ceil(TILE);
        let mut made = Packing {
            window: *window,
            channels,
            blocks,
            quads: channels.div_ceil(QUAD).div_ceil(blocks),
            width,
            apart: 0,
            across,
            len: window.ow.div_ceil(across),
        };
        // Images are packed in whole vectors of pixels.
        let pixels = made.rows(rows).checked_mul(width)?.checked_next_multiple_of(NR)?;
        made.apart = pixels.checked_mul(DEPTH)?;
        blocks.checked_mul(made.apart).filter(|&bytes| isize::try_from(bytes).is_ok())?;
        Some(made)
    }

    /// Packed rows of a band of so many rows of the output.
    fn rows(&self, rows: usize) -> usize {
        (rows - 1) * self.window.stride[0] + (self.window.kernel[0] - 1) * self.window.dilation[0] + 1
    }

    /// Bytes of an image of a band.
    pub fn bytes(&self) -> usize {
        self.blocks * self.apart
    }

    /// Taps.
    pub fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Pixels of a tile, at most 16.
    pub fn tile_len(&self) -> usize {
        self.len
    }

    /// Bytes from one pixel of a tile to the next, as a tap sees them.
    pub fn pixel(&self) -> usize {
        self.window.stride[1] * DEPTH
    }

    /// Tiles of a band of so many rows of the output.
    pub fn tiles(&self, rows: usize) -> usize {
        rows * self.across
    }

    /// A tile of a band. The last of a row ends with it, and may have pixels of the one before once more.
    pub fn tile(&self, tile: usize) -> Tile {
        let (oy, ox) = (tile / self.across, (tile % self.across * self.len).min(self.window.ow - self.len));
        let from = (oy * self.window.stride[0] * self.width + ox * self.window.stride[1]) * DEPTH;
        Tile { from, at: oy * self.window.ow + ox }
    }

    /// Where each tap of each block sees what a tile begins with, `[blocks][taps]`, in bytes.
    pub fn offsets(&self) -> Vec<usize> {
        let Window2 { kernel, dilation, .. } = self.window;
        let taps = (0..self.blocks)
            .flat_map(|block| (0..self.taps()).map(move |tap| (block, tap / kernel[1], tap % kernel[1])));
        taps.map(|(block, ty, tx)| {
            block * self.apart + (ty * dilation[0] * self.width + tx * dilation[1]) * DEPTH
        })
        .collect()
    }
}

/// A cache line of weights.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([[i8; QUAD]; TILE]);

/// A dense weight in the order in which it meets an image.
#[derive(Clone, Debug)]
pub struct Filters {
    m: usize,
    /// Steps of a tile: blocks times taps.
    steps: usize,
    quads: usize,
    lines: Vec<Line>,
}

impl Filters {
    /// Of `m` rows, `[m][channels][taps]`.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn new(rows: &[i8], m: usize, packing: &Packing) -> Filters {
        let Packing { channels, blocks, quads, .. } = *packing;
        let taps = packing.taps();
        assert_eq!(rows.len(), m * channels * taps, "{m} rows of {channels} channels and {taps} taps");
        let steps = blocks * taps;
        let mut lines = vec![Line([[0; QUAD]; TILE]); m.div_ceil(TILE) * steps * quads];
        for (r, row) in rows.chunks_exact((channels * taps).max(1)).enumerate() {
            let tile = &mut lines[r / TILE * steps * quads..];
            for (c, filter) in row.chunks_exact(taps).enumerate() {
                let (block, quad) = (c / QUAD / quads, c / QUAD % quads);
                for (tap, &w) in filter.iter().enumerate() {
                    tile[(block * taps + tap) * quads + quad].0[r % TILE][c % QUAD] = w;
                }
            }
        }
        Filters { m, steps, quads, lines }
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// The weights of a tile of rows, `[steps][quads][16][4]`.
    fn tile(&self, tile: usize) -> &[Line] {
        &self.lines[tile * self.steps * self.quads..][..self.steps * self.quads]
    }
}

/// A call that packs a band of an image.
#[derive(Clone, Copy, Debug)]
pub struct Pack<'a> {
    /// The cut.
    pub packing: &'a Packing,
    /// Rows of the output, `[first, end)`, for whose taps it is.
    pub rows: (usize, usize),
    /// The first channel's plane.
    pub x: *const u8,
    /// Bytes from one channel's plane to the next.
    pub pitch: usize,
    /// What lies outside the plane.
    pub padding: u8,
    /// The image, on a cache line.
    pub image: *mut u8,
}

/// What a strip is computed of: its `weight`. The strip's `panel` is the image and `panel_stride` [`Packing::pixel`].
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The weight.
    pub filters: &'a Filters,
    /// What [`Packing::offsets`] gave.
    pub offsets: &'a [usize],
    /// Tiles that follow each other, at most [`TILES`]; the strip's first column is the first pixel of the first.
    pub tiles: &'a [Tile],
    /// Pixels of each.
    pub len: usize,
}

/// Packs a band.
///
/// # Safety
/// The caller holds the tier's token; `x` is valid for the planes of all channels, `image` for [`Packing::bytes`]; the band
/// has no more rows than the packing is for, and the output has them.
pub type RunPack = unsafe fn(&Pack<'_>);

/// Computes a strip, whose output is uint8. No column beyond its `n` is written.
///
/// # Safety
/// The caller holds the tier's token; filters, offsets, tiles and image are of one [`Packing`], and the image is packed;
/// output, residual and the slices of `requant` have the rows, and columns up to `n`; nothing else touches that part of
/// the output meanwhile.
pub type Run = unsafe fn(&StripI8<'_, Seen<'_>>);

/// A kernel of this family.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Packs a band of an image.
    pub pack: RunPack,
    /// Computes a strip.
    pub run: Run,
}

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Amx, get: amx::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

#[cfg(test)]
#[allow(unsafe_code, reason = "calls kernels through their unsafe signature")]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::{Case, Values};
    use crate::testing::{Aligned, Rng, for_each_impl};

    fn windows() -> Vec<Window2> {
        let mut windows = vec![];
        for input in [[1, 1], [3, 9], [7, 7], [14, 14], [9, 33], [5, 130], [20, 28]] {
            for (kernel, stride, dilation, pad) in [
                ([3, 3], [1, 1], [1, 1], [1, 1]),
                ([3, 3], [2, 2], [1, 1], [1, 1]),
                ([3, 3], [1, 1], [2, 3], [2, 3]),
                ([1, 2], [1, 1], [1, 1], [0, 0]),
                ([2, 5], [1, 3], [1, 1], [1, 70]),
                ([1, 1], [2, 2], [1, 1], [0, 0]),
                ([5, 1], [3, 1], [1, 1], [4, 0]),
            ] {
                let pads = pad.map(|pad: usize| [pad, pad]);
                windows.extend(Window2::padded(input, kernel, stride, dilation, pads, false));
            }
        }
        windows
    }

    /// What tap `(ty, tx)` sees of channel `c` for output pixel `(oy, ox)`.
    fn seen(window: &Window2, x: &[u8], (c, pitch): (usize, usize), at: [usize; 4], padding: u8) -> u8 {
        let ([h, w], [oy, ox, ty, tx]) = (window.input(), at);
        let y = (oy * window.stride[0] + ty * window.dilation[0]).wrapping_sub(window.pad[0]);
        let column = (ox * window.stride[1] + tx * window.dilation[1]).wrapping_sub(window.pad[1]);
        if y < h && column < w { x[c * pitch + y * w + column] } else { padding }
    }

    #[test]
    fn taps_see_in_an_image_what_the_formula_says() {
        for_each_impl(TABLE, |tier, kernel| {
            for window in &windows() {
                let ([h, w], [oh, ow], [_, columns]) = (window.input(), window.output(), window.kernel());
                for (channels, most) in [(3, 1), (64, oh), (70, 2)] {
                    let packing = Packing::new(window, channels, most).expect("a small image");
                    let (pitch, padding) = (h * w + 3, 77);
                    // Nothing after the last plane's end: what is read beyond it is seen by a checker of memory.
                    let x: Vec<u8> =
                        (0..(channels - 1) * pitch + h * w).map(|i| (i * 7 % 251) as u8).collect();
                    let mut image = Aligned::<u8>::new(packing.bytes(), 0);
                    let offsets = packing.offsets();
                    for first in (0..oh).step_by(most) {
                        let rows = (first, oh.min(first + most));
                        let (x_ptr, to) = (x.as_ptr(), image.as_mut_ptr());
                        let call = Pack { packing: &packing, rows, x: x_ptr, pitch, padding, image: to };
                        // SAFETY: the tier was detected; planes and image are as long as said.
                        unsafe { (kernel.pack)(&call) };
                        for tile in (0..packing.tiles(rows.1 - first)).map(|tile| packing.tile(tile)) {
                            for (c, tap, i) in (0..channels).flat_map(|c| {
                                let taps = 0..packing.taps();
                                let len = packing.tile_len();
                                taps.flat_map(move |tap| (0..len).map(move |i| (c, tap, i)))
                            }) {
                                let (oy, ox) = ((tile.at + i) / ow + first, (tile.at + i) % ow);
                                let at = [oy, ox, tap / columns, tap % columns];
                                let want = seen(window, &x, (c, pitch), at, padding);
                                let deep = packing.quads * QUAD;
                                let offset = offsets[c / deep * packing.taps() + tap];
                                let got = image[tile.from + offset + i * packing.pixel() + c % deep];
                                assert_eq!(got, want, "{tier} {window:?} {channels}: {c} {at:?}");
                            }
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn what_fits_in_no_address_space_is_not_packed() {
        let far = 1 << 28;
        let window = Window2::padded([9, 9], [2, 2], [1, 1], [far, far], [[far / 2, far / 2]; 2], false);
        assert!(Packing::new(&window.expect("a window"), 1 << 10, 1).is_none());
    }

    /// Compares a strip of every start, or of some, with the oracle.
    fn check(tier: Tier, kernel: Kernel, window: &Window2, (m, channels): (usize, usize), kind: u64) {
        let ([h, w], [oh, ow], [_, columns]) = (window.input(), window.output(), window.kernel());
        let packing = Packing::new(window, channels, oh).expect("a small image");
        let (pitch, taps) = (h * w, packing.taps());
        let mut rng = Rng::new(kind);
        let x: Vec<u8> = (0..channels * pitch).map(|_| rng.below(256) as u8).collect();
        let padding = rng.below(256) as u8;
        let mut image = Aligned::<u8>::new(packing.bytes(), 0);
        let (x_ptr, to) = (x.as_ptr(), image.as_mut_ptr());
        let call = Pack { packing: &packing, rows: (0, oh), x: x_ptr, pitch, padding, image: to };
        // SAFETY: the tier was detected; planes and image are as long as said.
        unsafe { (kernel.pack)(&call) };
        let all: Vec<Tile> = (0..packing.tiles(oh)).map(|tile| packing.tile(tile)).collect();
        let offsets = packing.offsets();
        for (i, tiles) in all.chunks(1 + kind as usize % TILES).enumerate() {
            let first = tiles[0].at;
            let n = tiles[tiles.len() - 1].at + packing.tile_len() - first;
            let mut case = Case::new((m, channels * taps, n), kind, 0.1);
            for (k, row) in case.x.chunks_mut(n).enumerate() {
                let (c, tap) = (k / taps, k % taps);
                for (j, x_kj) in row.iter_mut().enumerate() {
                    let at = [(first + j) / ow, (first + j) % ow, tap / columns, tap % columns];
                    *x_kj = seen(window, &x, (c, pitch), at, padding);
                }
            }
            if !case.is_bytes() {
                continue;
            }
            let filters = Filters::new(&case.w, m, &packing);
            let weight = Seen { filters: &filters, offsets: &offsets, tiles, len: packing.tile_len() };
            let rows = [(0, m), (m / 2 / TILE * TILE, m)][i % 2];
            // SAFETY: the tier was detected; all are of one packing.
            let got = case.strip(weight, rows, (&image, packing.pixel()), |s| unsafe { (kernel.run)(s) });
            let (Values::U8(got), Values::U8(want)) = (got, case.expected(rows)) else { unreachable!() };
            assert!(got == want, "{tier} {window:?}: {m} x {channels}, tiles {tiles:?}, rows {rows:?}");
        }
    }

    #[test]
    fn equals_the_oracle() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for window in &windows() {
                for size in [(16, 64), (17, 5), (33, 70), (70, 130)] {
                    check(tier, kernel, window, size, kind);
                    kind += 1;
                }
            }
        });
    }

    #[test]
    fn equals_the_oracle_in_every_kind_of_output() {
        let pads = [[1, 1], [1, 1]];
        let window = Window2::padded([6, 14], [3, 3], [1, 1], [1, 1], pads, false).unwrap();
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::KINDS {
                check(tier, kernel, &window, (34, 20), kind);
            }
        });
    }

    #[test]
    fn a_strip_writes_its_columns_and_no_other() {
        let window = Window2::padded([3, 57], [3, 3], [1, 1], [1, 1], [[1, 1], [1, 1]], false).unwrap();
        for_each_impl(TABLE, |tier, kernel| {
            let packing = Packing::new(&window, 4, 3).expect("a small image");
            let image = Aligned::<u8>::new(packing.bytes(), 0);
            let tiles: Vec<Tile> = (0..TILES - 1).map(|tile| packing.tile(tile)).collect();
            let n = tiles[tiles.len() - 1].at + packing.tile_len();
            // A kind without a residual, whose output is bytes.
            let case = Case::new((16, 36, n), 2, 0.0);
            let (filters, offsets) = (Filters::new(&case.w, 16, &packing), packing.offsets());
            let weight =
                Seen { filters: &filters, offsets: &offsets, tiles: &tiles, len: packing.tile_len() };
            let mut out = vec![0xA5; 16 * 2 * NR];
            let call = StripI8 {
                weight,
                rows: (0, 16),
                panel: image.as_ptr(),
                panel_stride: packing.pixel(),
                n,
                out: out.as_mut_ptr(),
                out_stride: 2 * NR,
                residual: std::ptr::null(),
                residual_stride: 0,
                requant: case.requant(),
            };
            // SAFETY: the tier was detected; all are of one packing.
            unsafe { (kernel.run)(&call) };
            let beyond = |row: &[u8]| row[n..].iter().all(|&byte| byte == 0xA5);
            assert!(out.chunks(2 * NR).all(beyond), "{tier}");
        });
    }
}
