use super::*;
use crate::kernels::strip::{Epilogue, LANES};
use crate::testing::{Aligned, Rng, for_each_impl, sum_bound};
use crate::weight::tile;
use std::ops::Range;

/// A product with everything a kernel may be asked to do to it.
struct Case {
    m: usize,
    k: usize,
    n: usize,
    weight: Vec<f32>,
    tiles: Vec<f32>,
    stride: usize,
    panel: Aligned<f32>,
    out_stride: usize,
    residual: Option<Aligned<f32>>,
    scale: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    clamp: [f32; 2],
}

/// What `out` holds before a kernel writes to it.
const UNTOUCHED: f32 = 77.0;

impl Case {
    /// A plain product. A panel's rows are `gap` elements longer than they need to be; what lies between them is NaN.
    fn new(rng: &mut Rng, m: usize, k: usize, n: usize, gap: usize) -> Case {
        let weight = rng.floats(m * k);
        let tiles = tile(m, k, &weight);
        let stride = n.next_multiple_of(LANES) + gap;
        let mut panel = Aligned::from(&vec![f32::NAN; k * stride], gap % LANES);
        for row in panel.chunks_exact_mut(stride) {
            row[..n].copy_from_slice(&rng.floats(n));
        }
        Case {
            m,
            k,
            n,
            weight,
            tiles,
            stride,
            panel,
            out_stride: n.next_multiple_of(LANES) + gap,
            residual: None,
            scale: None,
            bias: None,
            clamp: Epilogue::NONE.clamp,
        }
    }

    fn with_epilogue(mut self, rng: &mut Rng) -> Case {
        self.residual = Some(Aligned::from(&rng.floats(self.m * self.out_stride), 0));
        self.scale = Some(rng.floats(self.m));
        self.bias = Some(rng.floats(self.m));
        self.clamp = [-0.75, 1.5];
        self
    }

    /// Runs the kernel over the depth in blocks of `kb`.
    fn run(&self, run: Run, rows: Range<usize>, kb: usize) -> Aligned<f32> {
        self.run_columns(run, rows, kb, 0..self.n)
    }

    fn run_columns(&self, run: Run, rows: Range<usize>, kb: usize, columns: Range<usize>) -> Aligned<f32> {
        let mut out = Aligned::from(&vec![UNTOUCHED; self.m * self.out_stride], 0);
        // One block even where the depth is nothing, as there is an epilogue to apply.
        for k0 in (0..self.k.max(1)).step_by(kb) {
            let end = (k0 + kb).min(self.k);
            let strip = Strip {
                weight: Tiles::new(self.m, self.k, &self.tiles).unwrap(),
                rows: (rows.start, rows.end),
                block: (k0, end),
                panel: self.panel.as_ptr().wrapping_add(k0 * self.stride + columns.start),
                panel_stride: self.stride,
                n: columns.len(),
                out: out.as_mut_ptr().wrapping_add(columns.start),
                out_stride: self.out_stride,
                residual: self
                    .residual
                    .as_ref()
                    .map_or(std::ptr::null(), |residual| residual.as_ptr().wrapping_add(columns.start)),
                epilogue: Epilogue {
                    scale: self.scale.as_deref(),
                    bias: self.bias.as_deref(),
                    clamp: self.clamp,
                },
                first: k0 == 0,
                last: end == self.k,
            };
            // SAFETY: `for_each_impl` gives kernels of tiers this processor has; buffers are `stride` a row, a
            // multiple of LANES at least as long as `n`, and outlive the call.
            unsafe { run(&strip) };
        }
        out
    }

    /// Compares with the exact product; rows and columns that are not the kernel's must be as they were.
    fn check(&self, out: &[f32], rows: Range<usize>, what: &str) {
        let panel: &[f32] = &self.panel;
        for r in 0..self.m {
            let row = &out[r * self.out_stride..][..self.out_stride];
            if !rows.contains(&r) {
                assert!(row.iter().all(|&y| y == UNTOUCHED), "{what}: row {r} is outside {rows:?}");
                continue;
            }
            let writable = self.n.next_multiple_of(LANES);
            assert!(row[writable..].iter().all(|&y| y == UNTOUCHED), "{what}: row {r} past {writable}");
            for (j, &got) in row[..self.n].iter().enumerate() {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for k in 0..self.k {
                    let term = f64::from(self.weight[r * self.k + k]) * f64::from(panel[k * self.stride + j]);
                    sum += term;
                    magnitude += term.abs();
                }
                let scale = self.scale.as_ref().map_or(1.0, |scale| f64::from(scale[r]));
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[r]));
                let residual =
                    self.residual.as_ref().map_or(0.0, |res| f64::from(res[r * self.out_stride + j]));
                let [lo, hi] = self.clamp.map(f64::from);
                let want = (sum * scale + bias + residual).clamp(lo, hi);
                let bound = sum_bound(self.k + 3, magnitude * scale.abs() + bias.abs() + residual.abs());
                let error = (f64::from(got) - want).abs();
                assert!(error <= bound, "{what}: ({r}, {j}) is {got}, not {want} (± {bound:e})");
            }
        }
    }
}

#[test]
fn every_size_of_rows_and_depth_agrees() {
    let mut rng = Rng::new(1);
    for m in [1, 7, 8, 9, 15, 16, 17, 33, 64, 150] {
        for k in [0, 1, 2, 7, 64, 257] {
            for n in [1, 5, 16, 20, 49] {
                let case = Case::new(&mut rng, m, k, n, 0).with_epilogue(&mut rng);
                for_each_impl(TABLE, |tier, kernel| {
                    let out = case.run(kernel.run, 0..m, kernel.kb);
                    case.check(&out, 0..m, &format!("{tier}, {m}x{k}x{n}"));
                });
            }
        }
    }
}

#[test]
fn every_width_agrees() {
    let mut rng = Rng::new(2);
    for_each_impl(TABLE, |tier, kernel| {
        assert_eq!(kernel.nr % LANES, 0);
        for n in 1..=kernel.nr {
            for (m, k) in [(33, 5), (150, 3)] {
                let case = Case::new(&mut rng, m, k, n, 0).with_epilogue(&mut rng);
                let out = case.run(kernel.run, 0..m, kernel.kb);
                case.check(&out, 0..m, &format!("{tier}, {m}x{k}x{n}"));
            }
        }
    });
}

#[test]
fn each_part_of_an_epilogue_may_be_absent() {
    let mut rng = Rng::new(3);
    for part in 0..16 {
        for n in [3, 48, 50] {
            let mut case = Case::new(&mut rng, 20, 12, n, 0).with_epilogue(&mut rng);
            case.scale = case.scale.filter(|_| part & 1 != 0);
            case.bias = case.bias.filter(|_| part & 2 != 0);
            case.residual = case.residual.filter(|_| part & 4 != 0);
            case.clamp = if part & 8 == 0 { Epilogue::NONE.clamp } else { [0.0, 0.5] };
            for_each_impl(TABLE, |tier, kernel| {
                let out = case.run(kernel.run, 0..20, kernel.kb);
                case.check(&out, 0..20, &format!("{tier}, {n} columns, parts {part:04b}"));
            });
        }
    }
}

#[test]
fn blocks_of_the_depth_add_up() {
    let mut rng = Rng::new(4);
    for kb in [1, 64, 100] {
        for n in [2, 17, 64] {
            let case = Case::new(&mut rng, 40, 193, n, 0).with_epilogue(&mut rng);
            for_each_impl(TABLE, |tier, kernel| {
                let out = case.run(kernel.run, 0..40, kb);
                case.check(&out, 0..40, &format!("{tier}, blocks of {kb}, {n} columns"));
            });
        }
    }
}

#[test]
fn rows_may_be_far_apart_and_unaligned() {
    let mut rng = Rng::new(5);
    for gap in [16, 128, 3, 1027] {
        for n in [1, 13, 49] {
            let case = Case::new(&mut rng, 24, 30, n, gap).with_epilogue(&mut rng);
            for_each_impl(TABLE, |tier, kernel| {
                let out = case.run(kernel.run, 0..24, 16);
                case.check(&out, 0..24, &format!("{tier}, {gap} apart, {n} columns"));
            });
        }
    }
}

#[test]
fn a_range_of_rows_leaves_the_others_alone() {
    let mut rng = Rng::new(6);
    let case = Case::new(&mut rng, 150, 21, 52, 16).with_epilogue(&mut rng);
    for rows in [0..0, 0..16, 16..48, 32..150, 144..150] {
        for_each_impl(TABLE, |tier, kernel| {
            let out = case.run(kernel.run, rows.clone(), 8);
            case.check(&out, rows.clone(), &format!("{tier}, rows {rows:?}"));
        });
    }
}

/// The driver cuts columns and rows as threads come: no cut may show in the result.
#[test]
fn bits_do_not_depend_on_the_cut() {
    let mut rng = Rng::new(7);
    for_each_impl(TABLE, |tier, kernel| {
        let (m, nr) = (150, kernel.nr);
        let case = Case::new(&mut rng, m, 90, nr, 0).with_epilogue(&mut rng);
        let bits = |out: &[f32], n: usize| -> Vec<u32> {
            out.chunks_exact(case.out_stride).flat_map(|row| row[..n].iter().map(|y| y.to_bits())).collect()
        };
        let whole = case.run(kernel.run, 0..m, 64);
        for n in 1..nr {
            let cut = case.run_columns(kernel.run, 0..m, 64, 0..n);
            assert_eq!(bits(&cut, n), bits(&whole, n), "{tier}, the first {n} of {nr} columns");
        }
        let right = case.run_columns(kernel.run, 0..m, 64, 16..nr);
        let mut both = case.run_columns(kernel.run, 0..m, 64, 0..16);
        for (to, from) in both.chunks_exact_mut(case.out_stride).zip(right.chunks_exact(case.out_stride)) {
            to[16..].copy_from_slice(&from[16..]);
        }
        assert_eq!(bits(&both, nr), bits(&whole, nr), "{tier}, columns 16.. alone");
        for cut in [16, 128, 144] {
            let (top, bottom) = (case.run(kernel.run, 0..cut, 64), case.run(kernel.run, cut..m, 64));
            let mut both = top.to_vec();
            both[cut * case.out_stride..].copy_from_slice(&bottom[cut * case.out_stride..]);
            assert_eq!(bits(&both, nr), bits(&whole, nr), "{tier}, rows cut at {cut}");
        }
    });
}

#[test]
fn nan_and_infinity_pass_through_a_clamp() {
    let mut rng = Rng::new(8);
    for n in [1, 4, 16, 48, 52] {
        let mut case = Case::new(&mut rng, 16, 4, n, 0);
        case.clamp = [0.0, 6.0];
        let stride = case.stride;
        let bad = n - 1;
        for (value, want) in [(f32::NAN, None), (f32::INFINITY, Some([0.0, 6.0]))] {
            case.panel[stride + bad] = value;
            for_each_impl(TABLE, |tier, kernel| {
                let out = case.run(kernel.run, 0..16, 4);
                for r in 0..16 {
                    let got = out[r * case.out_stride + bad];
                    let weight = case.weight[r * 4 + 1];
                    match want {
                        None => assert!(got.is_nan(), "{tier}: ({r}, {bad}) of {n} is {got}"),
                        Some(ends) => assert_eq!(got, ends[usize::from(weight > 0.0)], "{tier}: row {r}"),
                    }
                    for j in 0..bad {
                        assert!((0.0..=6.0).contains(&out[r * case.out_stride + j]), "{tier}: ({r}, {j})");
                    }
                }
            });
        }
    }
}

/// A single block may add into the very values it replaces.
#[test]
fn a_residual_may_be_the_output() {
    let mut rng = Rng::new(9);
    for n in [4, 33, 60] {
        let case = Case::new(&mut rng, 17, 9, n, 0).with_epilogue(&mut rng);
        for_each_impl(TABLE, |tier, kernel| {
            let apart = case.run(kernel.run, 0..17, 9);
            let mut out = Aligned::from(case.residual.as_ref().unwrap(), 0);
            let strip = Strip {
                weight: Tiles::new(17, 9, &case.tiles).unwrap(),
                rows: (0, 17),
                block: (0, 9),
                panel: case.panel.as_ptr(),
                panel_stride: case.stride,
                n,
                out: out.as_mut_ptr(),
                out_stride: case.out_stride,
                residual: out.as_ptr(),
                epilogue: Epilogue {
                    scale: case.scale.as_deref(),
                    bias: case.bias.as_deref(),
                    clamp: case.clamp,
                },
                first: true,
                last: true,
            };
            // SAFETY: as in `run_columns`.
            unsafe { (kernel.run)(&strip) };
            for r in 0..17 {
                let row = r * case.out_stride..r * case.out_stride + n;
                assert_eq!(out[row.clone()], apart[row], "{tier}: row {r}");
            }
        });
    }
}
