//! A dense int8 weight times a strip of uint8 columns.
//!
//! `out[r][j] = requantize(Σ_k W[r][k] · x[k][j])` as [`strip_i8`](super::strip_i8) defines it; `W` is [`TilesI8`],
//! `[⌈m/16⌉][⌈k/4⌉][16][4]`, or the form of it that the tier reads, made once, and the panel what the kernel's own `pack`
//! makes of rows of `x`. Exact, hence equal, on every tier.

use super::Impl;
use super::strip_i8::{Gathers, Pack, StripI8, StripI8Kernel};
use crate::isa::Tier;
use crate::weight::TilesI8;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod by_magnitude;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "what tiers of x86 read"))]
mod magnitudes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub use blocks::Blocks;
pub use magnitudes::Magnitudes;

/// A kernel that reads the weight as the file has it.
pub type Tiles = StripI8Kernel<unsafe fn(&StripI8<'_, TilesI8<'_>>)>;

/// A kernel that reads it as `vpmaddubsw` does.
pub type ByMagnitude = StripI8Kernel<unsafe fn(&StripI8<'_, &Magnitudes>)>;

/// A kernel that reads it as matrix units do.
pub type ByBlocks = StripI8Kernel<unsafe fn(&StripI8<'_, &Blocks>)>;

/// A kernel of this family, by the form of the weight it reads.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// The file's form.
    Tiles(Tiles),
    /// The form of magnitudes.
    Magnitudes(ByMagnitude),
    /// The form for matrix units.
    Blocks(ByBlocks),
}

impl Kernel {
    /// What makes the panel of what taps see at once, if the tier does.
    pub fn gathers(&self) -> Option<Gathers> {
        match self {
            Kernel::Tiles(kernel) => kernel.gathers,
            Kernel::Magnitudes(kernel) => kernel.gathers,
            Kernel::Blocks(kernel) => kernel.gathers,
        }
    }

    /// Makes the panel that the kernel reads.
    pub fn pack(&self) -> Pack {
        match self {
            Kernel::Tiles(kernel) => kernel.pack,
            Kernel::Magnitudes(kernel) => kernel.pack,
            Kernel::Blocks(kernel) => kernel.pack,
        }
    }
}

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Amx, get: || amx::get().map(Kernel::Blocks) },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: || avx512vnni::get().map(Kernel::Tiles) },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: || avx512::get().map(Kernel::Magnitudes) },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::AvxVnni, get: || avxvnni::get().map(Kernel::Tiles) },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: || avx2::get().map(Kernel::Magnitudes) },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::DotProd, get: || dotprod::get().map(Kernel::Tiles) },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: || neon::get().map(Kernel::Tiles) },
    Impl { tier: Tier::Scalar, get: || Some(Kernel::Tiles(scalar::get())) },
];

#[cfg(test)]
#[allow(unsafe_code, reason = "calls kernels through their unsafe signature")]
mod tests {
    use super::*;
    use crate::kernels::pack::{self, Beside, Fill, Gather, Taps};
    use crate::kernels::pick;
    use crate::kernels::strip_i8::testing::Case;
    use crate::kernels::strip_i8::{DEPTH, LANES, NR};
    use crate::kernels::window::Window2;
    use crate::testing::{Aligned, for_each_impl};
    use crate::weight::{QUAD, tile_i8};

    fn check(tier: Tier, kernel: Kernel, case: &Case, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let tiles = tile_i8(m, k, &case.w);
        let weight = TilesI8::new(m, k, &tiles).unwrap();
        let reach = n.next_multiple_of(LANES);
        // Rows of an image lie anywhere: an odd stride puts them at every alignment.
        let stride = reach + 1;
        let mut x = Aligned::<u8>::new(k * stride, 3);
        for (to, from) in x.chunks_mut(stride).zip(case.x.chunks(n)) {
            to[..n].copy_from_slice(from);
        }
        let pointers: Vec<_> = x.chunks(stride).map(<[u8]>::as_ptr).collect();
        let panel_stride = reach + LANES;
        let mut panel = Aligned::<u8>::new(k.next_multiple_of(DEPTH) * panel_stride, 0);
        // What no weight multiplies may be anything.
        panel.fill(0xA5);
        // In two parts, as a driver that gathers rows would.
        let part = (k / 2).next_multiple_of(QUAD).min(k);
        // SAFETY: the tier was detected; rows and panel have `reach` columns, the panel every group.
        unsafe {
            kernel.pack()(&pointers[..part], n, panel.as_mut_ptr(), panel_stride);
            kernel.pack()(&pointers[part..], n, panel.as_mut_ptr().add(part * panel_stride), panel_stride);
        }
        let got = match kernel {
            Kernel::Tiles(Tiles { run, .. }) => {
                // SAFETY: the tier was detected; `strip` gives room for what a strip may touch.
                case.strip(weight, rows, (&panel, panel_stride), |s| unsafe { run(s) })
            }
            Kernel::Magnitudes(ByMagnitude { run, .. }) => {
                let magnitudes = Magnitudes::new(&weight);
                // SAFETY: as above.
                case.strip(&magnitudes, rows, (&panel, panel_stride), |s| unsafe { run(s) })
            }
            Kernel::Blocks(ByBlocks { run, .. }) => {
                let blocks = Blocks::new(&weight);
                // SAFETY: as above.
                case.strip(&blocks, rows, (&panel, panel_stride), |s| unsafe { run(s) })
            }
        };
        assert_eq!(got, case.expected(rows), "{tier}: {m} x {k} x {n}, rows {rows:?}");
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for m in [1, 5, 6, 7, 12, 15, 16, 17, 33] {
                for k in [1, 3, 4, 5, 63, 64, 65, 255, 256, 300] {
                    for n in [1, 9, 15, 16, 17, 25, 32, 33, 41, 48, 49, 57, 58, 63, 64] {
                        check(tier, kernel, &Case::new((m, k, n), kind, 0.1), (0, m));
                        kind += 1;
                    }
                }
            }
        });
    }

    #[test]
    fn equals_the_oracle_at_every_depth() {
        for_each_impl(TABLE, |tier, kernel| {
            for k in (0..=200).chain([511, 512, 513, 575, 1024, 1033, 1100, 2309]) {
                check(tier, kernel, &Case::new((17, k, [NR, 33][k % 2]), k as u64, 0.0), (0, 17));
            }
        });
    }

    #[test]
    fn equals_the_oracle_in_every_kind_of_output() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::KINDS {
                check(tier, kernel, &Case::new((18, 37, NR), kind, 0.0), (0, 18));
                check(tier, kernel, &Case::new((17, 530, 21), kind, 0.0), (0, 17));
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((64, 40, NR), kind, 0.0), (0, 64));
                check(tier, kernel, &Case::ties((64, 40, 20), kind, 0.0), (0, 64));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 16), (16, 32), (16, 48), (32, 50), (48, 50), (16, 16)] {
                check(tier, kernel, &Case::new((50, 70, 50), 4, 0.0), rows);
            }
            // Deeper than a kernel walks at once, from within what it may take together.
            for rows in [(0, 150), (16, 48), (48, 150), (32, 144), (128, 150), (144, 150)] {
                check(tier, kernel, &Case::new((150, 700, 50), 4, 0.0), rows);
            }
            // More weights than a near cache is taken to hold.
            for n in [10, 32, 48, 64] {
                check(tier, kernel, &Case::new((210, 700, n), 4, 0.0), (0, 210));
            }
        });
    }

    #[test]
    fn gathering_is_filling_and_packing() {
        let (channels, padding) = (5, 77);
        let mut windows = vec![];
        for input in [[7, 7], [14, 14], [9, 33], [5, 130], [40, 41]] {
            for (kernel, stride, dilation, pad) in [
                ([1, 1], [1, 1], [1, 1], 0),
                ([3, 3], [1, 1], [1, 1], 1),
                ([3, 3], [1, 1], [2, 2], 2),
                ([3, 3], [2, 2], [1, 1], 1),
                ([7, 7], [2, 2], [1, 1], 3),
                ([2, 5], [1, 3], [1, 2], 2),
                ([1, 1], [2, 2], [1, 1], 0),
                ([3, 3], [1, 70], [1, 1], 1),
            ] {
                let pads = [[pad, pad], [pad, pad]];
                windows.extend(Window2::padded(input, kernel, stride, dilation, pads, false));
            }
        }
        for_each_impl(TABLE, |tier, kernel| {
            let (pack, Some(gathers)) = (kernel.pack(), kernel.gathers()) else { return };
            let (_, fill) = pick(pack::TABLE_U8, tier);
            for window in &windows {
                let ([h, w], [oh, ow], taps) =
                    (window.input(), window.output(), window.kernel[0] * window.kernel[1]);
                let (k, pitch) = (channels * taps, h * w);
                let x: Vec<u8> = (0..channels * pitch).map(|i| (i % 251) as u8).collect();
                for (p0, n) in [(0, oh * ow), (oh * ow / 2, oh * ow - oh * ow / 2), (oh * ow - 1, 1)] {
                    let n = n.min(NR);
                    let seen = Taps::new(window, (p0, n), NR);
                    let (mut rows, mut panels) =
                        (vec![0; k * NR], [(); 2].map(|()| vec![0; k.next_multiple_of(QUAD) * NR]));
                    // SAFETY: planes, rows and panels are as long as said.
                    unsafe {
                        for tap in 0..taps {
                            fill(&Fill {
                                taps: &seen,
                                tap,
                                x: x.as_ptr(),
                                pitch,
                                channels,
                                out: rows[tap * NR..].as_mut_ptr(),
                                out_stride: taps * NR,
                                padding,
                            });
                        }
                        let pointers: Vec<_> = rows.chunks(NR).map(<[u8]>::as_ptr).collect();
                        pack(&pointers, n, panels[0].as_mut_ptr(), NR);
                        let (x, panel) = (x.as_ptr(), panels[1].as_mut_ptr());
                        (gathers.taps)(&Gather { taps: Some(&seen), n, x, pitch, channels, padding, panel });
                    }
                    let columns = |panel: &[u8]| -> Vec<u8> {
                        let rows =
                            (0..k).flat_map(|k| (0..n).map(move |j| (k / QUAD * NR + j) * QUAD + k % QUAD));
                        rows.map(|at| panel[at]).collect()
                    };
                    assert!(columns(&panels[0]) == columns(&panels[1]), "{tier} {window:?} p0 {p0} n {n}");
                }
            }
        });
    }

    #[test]
    fn taps_side_by_side_see_what_the_formula_says() {
        let mut windows = vec![];
        for input in [[1, 1], [7, 7], [14, 3], [9, 33], [5, 130], [40, 41]] {
            for (kernel, stride, dilation, pad) in [
                ([7, 7], [2, 2], [1, 1], [3, 3]),
                ([3, 3], [2, 2], [1, 1], [1, 1]),
                ([3, 3], [1, 1], [2, 1], [1, 1]),
                ([2, 5], [1, 4], [1, 1], [0, 4]),
                ([1, 9], [3, 3], [1, 1], [0, 8]),
                ([4, 4], [4, 4], [1, 1], [0, 0]),
                ([1, 2], [1, 1], [1, 1], [2, 70]),
            ] {
                let pads = pad.map(|pad: usize| [pad, pad]);
                windows.extend(Window2::padded(input, kernel, stride, dilation, pads, false));
            }
        }
        for_each_impl(TABLE, |tier, kernel| {
            let Some(gathers) = kernel.gathers() else { return };
            for window in &windows {
                assert!(Beside::serves(window));
                let ([h, w], [oh, ow], [rows, columns]) = (window.input(), window.output(), window.kernel());
                let (channels, pitch, padding) = (2, h * w + 3, 77);
                // Nothing after the last plane's end: what is read beyond it is seen by a checker of memory.
                let x: Vec<u8> = (0..(channels - 1) * pitch + h * w).map(|i| (i % 251) as u8).collect();
                for (p0, n) in [(0, oh * ow), (oh * ow / 2, oh * ow - oh * ow / 2), (oh * ow - 1, 1)] {
                    let n = n.min(NR);
                    let groups = channels * rows * columns.div_ceil(QUAD);
                    let mut panel = vec![0; groups * NR * QUAD];
                    let (x_ptr, to) = (x.as_ptr(), panel.as_mut_ptr());
                    let call = Beside { window, p0, n, x: x_ptr, pitch, channels, padding, panel: to };
                    // SAFETY: the tier was detected; planes and panel are as long as said.
                    unsafe { (gathers.beside)(&call) };
                    for (c, ty, tx, j) in (0..channels).flat_map(|c| {
                        let taps = (0..rows).flat_map(move |ty| (0..columns).map(move |tx| (ty, tx)));
                        taps.flat_map(move |(ty, tx)| (0..n).map(move |j| (c, ty, tx, j)))
                    }) {
                        let (oy, ox) = ((p0 + j) / ow, (p0 + j) % ow);
                        let y = (oy * window.stride[0] + ty * window.dilation[0]).wrapping_sub(window.pad[0]);
                        let column = (ox * window.stride[1] + tx).wrapping_sub(window.pad[1]);
                        let want = if y < h && column < w { x[c * pitch + y * w + column] } else { padding };
                        let group = (c * rows + ty) * columns.div_ceil(QUAD) + tx / QUAD;
                        let got = panel[(group * NR + j) * QUAD + tx % QUAD];
                        assert_eq!(got, want, "{tier} {window:?} p0 {p0} n {n}: {c} {ty} {tx} {j}");
                    }
                }
            }
        });
    }

    #[test]
    fn gathering_pixels_is_packing() {
        for_each_impl(TABLE, |tier, kernel| {
            let (pack, Some(gathers)) = (kernel.pack(), kernel.gathers()) else { return };
            for (channels, n) in [(1usize, 1usize), (4, 64), (7, 17), (16, 48), (3, 49), (30, 33)] {
                let pitch = n.next_multiple_of(LANES) + 3;
                let x: Vec<u8> = (0..channels * pitch).map(|i| (i % 251) as u8).collect();
                let pointers: Vec<_> = x.chunks(pitch).map(<[u8]>::as_ptr).collect();
                let mut panels = [(); 2].map(|()| vec![0; channels.next_multiple_of(QUAD) * NR]);
                // SAFETY: rows and panels are as long as said.
                unsafe {
                    pack(&pointers, n, panels[0].as_mut_ptr(), NR);
                    let (x, panel) = (x.as_ptr(), panels[1].as_mut_ptr());
                    (gathers.taps)(&Gather { taps: None, n, x, pitch, channels, padding: 0, panel });
                }
                for k in 0..channels {
                    let column = |panel: &[u8]| -> Vec<u8> {
                        (0..n).map(|j| panel[(k / QUAD * NR + j) * QUAD + k % QUAD]).collect()
                    };
                    assert_eq!(column(&panels[0]), column(&panels[1]), "{tier} {channels} x {n}: {k}");
                }
            }
        });
    }

    #[test]
    fn a_sum_of_nothing_is_the_bias() {
        for_each_impl(TABLE, |tier, kernel| {
            check(tier, kernel, &Case::new((17, 0, 20), 0, 0.0), (0, 17));
        });
    }
}
