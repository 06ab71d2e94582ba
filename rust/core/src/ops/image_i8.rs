//! `conv_i8` of a packed image, where the processor multiplies so fast that gathering what every tap sees would take as long.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::conv_i8::{ConvI8, pitch_of_residual};
use super::frame::Shared;
use super::integer;
use super::{Frame, Prepared, Site, Step};
use crate::error::Result;
use crate::kernels::conv_i8::{self, DEPTH, Filters, Pack, Packing, Seen, TILES};
use crate::kernels::strip_i8::StripI8;
use crate::kernels::{gemm_i8, pick};
use crate::pool::{Ranges, split};
use crate::tensor::Planes;
use crate::weight::TILE;
use std::sync::Arc;

/// Bytes of a packed band, which stays in the second-level cache while the weight passes over it.
const BAND: usize = 256 << 10;

/// Bytes of weights that pass over a band before others do: they stay in the second-level cache as well.
const WEIGHTS: usize = 640 << 10;

/// Fewest pixels of a tile: with fewer, loading weights takes longer than multiplying by them.
const FEWEST: usize = 7;

/// Most times that a packed image may be as large as the planes: padding may make it so, and no more than small maps want.
const GROWTH: usize = 8;

impl ConvI8 {
    /// Whether that is the way to compute it.
    pub(super) fn suits_image(&self, site: &Site<'_>) -> Result<bool> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        let (from, to) = (Planes::of(x, site.layouts[0]), Planes::of(out, site.layout));
        let window = self.geometry.window(x)?;
        let bytes = self.quantized.output.is_some() && self.geometry.groups == 1;
        if !bytes || to.plane == 0 || from.channels == 0 {
            return Ok(false);
        }
        let Some(packing) = Packing::new(&window, from.channels, window.output()[0]) else {
            return Ok(false);
        };
        // Blocks are multiplied as if they were full.
        let full = from.channels * 4 >= from.channels.next_multiple_of(DEPTH) * 3;
        let as_good = pick(conv_i8::TABLE, site.tier).0 >= pick(gemm_i8::TABLE, site.tier).0;
        let small = packing.bytes() / GROWTH <= from.channels * from.pitch;
        Ok(full && small && as_good && packing.taps() > 1 && packing.tile_len() >= FEWEST)
    }

    /// Band by band, and strip by strip.
    pub(super) fn image(&self, site: &Site<'_>, reason: String) -> Result<Prepared> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        let window = self.geometry.window(x)?;
        let (from, to) = (Planes::of(x, site.layouts[0]), Planes::of(out, site.layout));
        let residual_pitch = pitch_of_residual(site);
        let stored = integer::matrix(&site.args)?;
        let epilogue = self.quantized.epilogue(site, &integer::row_sums(stored))?;
        let (tier, kernel) = pick(conv_i8::TABLE, site.tier);
        let [oh, ow] = window.output();
        let (m, zero_point) = (to.channels, self.quantized.x_zero_point);
        let fits = "an image that suits fits";
        let whole = Packing::new(&window, from.channels, oh).expect(fits);
        let taps = whole.taps();
        let make = || Arc::new(Filters::new(&stored.to_rows::<i8>(), m, &whole));
        let kept = stored.form("conv_i8 image", |_| {
            let made = make();
            let bytes = made.bytes();
            Ok(((taps, made), bytes))
        })?;
        // Another window may have the same weight.
        let filters = if kept.0 == taps { Arc::clone(&kept.1) } else { make() };
        let Cut { bands, rows } = Cut::new(&whole, &filters, (to.n, oh), site.threads);
        let most = (0..bands.len()).map(|band| bands.at(band)).map(|(a, b)| b - a).max().unwrap_or(1);
        let packing = Packing::new(&window, from.channels, most).expect(fits);
        let tiles: Vec<_> = (0..packing.tiles(most)).map(|tile| packing.tile(tile)).collect();
        let offsets = packing.offsets();
        let flops = 2.0 * (m * from.channels * taps) as f64 * (to.n * to.plane) as f64;
        let (bytes, scratch) = (filters.bytes(), packing.bytes());
        let mut step = Step::new(format!("conv_i8/{tier}"), move |frame: &Frame<'_>| {
            let x = frame.input::<u8>(0);
            let residual = epilogue.residual.map(|_| Shared(frame.input::<u8>(4).as_ptr().cast_mut()));
            let out = Shared(frame.output_ptr::<u8>(0));
            frame.pool.run(to.n * rows.len() * bands.len(), &|item, worker| {
                let (item, band) = (item / bands.len(), bands.at(item % bands.len()));
                let (channel, rows) = (item / rows.len() * m, rows.at(item % rows.len()));
                let image = frame.scratch_ptr::<u8>(worker);
                let call = Pack {
                    packing: &packing,
                    rows: band,
                    x: x[channel / m * from.channels * from.pitch..].as_ptr(),
                    pitch: from.pitch,
                    padding: zero_point,
                    image,
                };
                // SAFETY: `pick` found the tier's token; the channels' planes are there, scratch has room for a band, of which
                // none has more rows than the packing is for.
                unsafe { (kernel.pack)(&call) };
                let beside = (rows.1 - rows.0) * bytes / m.next_multiple_of(TILE);
                let groups = split(rows.1 - rows.0, beside.div_ceil(WEIGHTS), TILE);
                for (r0, r1) in (0..groups.len()).map(|group| groups.at(group)) {
                    for tiles in tiles[..packing.tiles(band.1 - band.0)].chunks(TILES) {
                        let (first, last) = (tiles[0].at, tiles[tiles.len() - 1].at + packing.tile_len());
                        let p0 = band.0 * ow + first;
                        let weight =
                            Seen { filters: &filters, offsets: &offsets, tiles, len: packing.tile_len() };
                        let call = StripI8 {
                            weight,
                            rows: (rows.0 + r0, rows.0 + r1),
                            panel: image.cast_const(),
                            panel_stride: packing.pixel(),
                            n: last - first,
                            out: out.get().wrapping_add(channel * to.pitch + p0),
                            out_stride: to.pitch,
                            residual: residual.map_or(std::ptr::null(), |r| {
                                r.get().wrapping_add(channel * residual_pitch + p0).cast_const()
                            }),
                            residual_stride: residual_pitch,
                            requant: epilogue.rows(0, m),
                        };
                        // SAFETY: as above; all is of one packing, and no other item has these rows of this band.
                        unsafe { (kernel.run)(&call) };
                    }
                }
            });
        });
        step.scratch = scratch;
        step.flops = flops;
        step.weight_bytes = bytes;
        step.reason = reason;
        Ok(step.into())
    }
}

/// Bands of rows of the output, and parts of the rows of the weight.
struct Cut {
    bands: Ranges,
    rows: Ranges,
}

impl Cut {
    /// Of `n` images of `oh` rows. Threads that share an image share out the larger of image and weight: both read the other.
    fn new(packing: &Packing, filters: &Filters, (n, oh): (usize, usize), threads: usize) -> Cut {
        let threads = if n.is_multiple_of(threads) { 1 } else { threads };
        let by_rows = filters.bytes() > packing.bytes() && filters.m() >= 2 * TILE * threads;
        let bands = packing.bytes().div_ceil(BAND);
        Cut {
            bands: split(oh, if by_rows { bands } else { bands.next_multiple_of(threads) }, 1),
            rows: split(filters.m(), if by_rows { threads } else { 1 }, TILE),
        }
    }
}
