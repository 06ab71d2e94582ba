//! Every kernel of every table, on each tier this processor has, at layers of `ResNet50` and `MobileNetV2`, beside what the
//! core could do at most (`roof.rs`). One thread.
//!
//! Criterion keeps the times and tells what changed since the run before; the table printed at the end takes the best call
//! of each case. A share of 100 % would be nothing but multiply-adds, or nothing but bytes moved once.

#![allow(missing_docs, reason = "a program")]
#![allow(unsafe_code, reason = "kernels take pointers; each case says what they are valid for")]

mod roof;

use bytemuck::Pod;
use criterion::Criterion;
use gossamer_core::isa::Tier;
use gossamer_core::kernels::conv_i8::{Filters, Pack as PackImage, Packing, Seen, TILES};
use gossamer_core::kernels::pack::{Fill, LANES_F32, LANES_U8, Taps};
use gossamer_core::kernels::pool_f32::Divisor;
use gossamer_core::kernels::quantize::{Bytes, Operand};
use gossamer_core::kernels::reduce::norm::{Group, Norm};
use gossamer_core::kernels::reduce::{Dims, Reduce};
use gossamer_core::kernels::spmm_f32::stacked;
use gossamer_core::kernels::strip::{Epilogue, Strip, StripKernel};
use gossamer_core::kernels::strip_i8::rows::RowsI8;
use gossamer_core::kernels::strip_i8::{DEPTH, NR, Output, Pack, Requant, StripI8, StripI8Kernel};
use gossamer_core::kernels::window::Window2;
use gossamer_core::kernels::{
    FAMILIES, Impl, binary, conv_i8, depthwise_f32, depthwise_i8, gemm_f32, gemm_i8, gemv_f32, gemv_i8, map,
    pack, pool_f32, pool_i8, quantize, reduce, relayout, spmm_f32, spmm_i8, spmv_f32, spmv_i8, winograd_f32,
};
use gossamer_core::pool::split;
use gossamer_core::tensor::{DType, pitch};
use gossamer_core::weight::{Matrix, Number, TILE};
use half::f16;
use memmap2::{Advice, MmapMut};
use roof::Work;
use std::cell::Cell;
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::null;
use std::time::{Duration, Instant};

/// Something to measure: a layer, what it has to do at least, and a call that does it.
struct Case {
    layer: String,
    work: Work,
    call: Box<dyn FnMut()>,
}

/// A line of the table.
struct Line {
    family: &'static str,
    tier: Tier,
    layer: String,
    seconds: f64,
    work: Work,
    roof: (f64, roof::Bound),
}

struct Bench {
    criterion: Criterion,
    /// Whether this is `cargo bench`; `cargo test` runs each case once and measures nothing.
    measures: bool,
    lines: Vec<Line>,
}

impl Bench {
    /// Measures the cases that `cases` makes of each kernel of a table.
    fn table<K>(&mut self, family: &'static str, table: &[Impl<K>], cases: impl Fn(K) -> Vec<Case>) {
        for entry in table {
            let Some(kernel) = (entry.get)() else { continue };
            for case in cases(kernel) {
                self.case(family, entry.tier, case);
            }
        }
    }

    fn case(&mut self, family: &'static str, tier: Tier, case: Case) {
        let Case { layer, work, mut call } = case;
        let (least, once) = (Cell::new(f64::INFINITY), Cell::new(f64::INFINITY));
        let name = format!("{family}/{tier}/{layer}");
        self.criterion.bench_function(&name, |bencher| {
            bencher.iter_custom(|calls| {
                let mut total = Duration::ZERO;
                for _ in 0..calls {
                    let start = Instant::now();
                    call();
                    let time = start.elapsed();
                    total += time;
                    least.set(least.get().min(time.as_secs_f64()));
                    if self.measures && work.macs > 0 {
                        once.set(once.get().min(roof::arithmetic(tier, work)));
                    }
                }
                total
            });
        });
        // A case that the command line's filter left out has no time.
        if self.measures && least.get().is_finite() {
            let roof = roof::bound(tier, work, once.get());
            self.lines.push(Line { family, tier, layer, seconds: least.get(), work, roof });
        }
    }

    fn print(&self) {
        println!(
            "\n{:21} {:11} {:28} {:>10} {:>14}  {:>5}  of",
            "family", "tier", "layer", "us", "rate", "share"
        );
        for line in &self.lines {
            let Line { family, tier, layer, seconds, work, roof: (least, bound) } = line;
            let rate = match work {
                Work { macs: 0, read, written, times, .. } => {
                    format!("{:.1} GB/s", (times * (read + written)) as f64 / seconds / 1e9)
                }
                Work { macs, int8, .. } => {
                    let unit = if *int8 { "GOP/s" } else { "GFLOP/s" };
                    format!("{:.1} {unit}", 2.0 * *macs as f64 / seconds / 1e9)
                }
            };
            println!(
                "{family:21} {:11} {layer:28} {:10.1} {rate:>14}  {:3.0} %  {}",
                tier.name(),
                1e6 * seconds,
                100.0 * least / seconds,
                bound.name()
            );
        }
    }
}

/// Memory as a run has it: on pages of its own, huge where the system gives them.
struct Buffer<T> {
    map: MmapMut,
    of: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    fn new(len: usize) -> Buffer<T> {
        // Strips are read and written up to the next whole vector of columns.
        let map = MmapMut::map_anon(len.next_multiple_of(64) * size_of::<T>()).expect("memory for a case");
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Buffer { map, of: PhantomData }
    }

    fn filled(len: usize, mut value: impl FnMut(usize) -> T) -> Buffer<T> {
        let mut made = Buffer::new(len);
        made.iter_mut().enumerate().for_each(|(i, to)| *to = value(i));
        made
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map)
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}

/// Bits that look random, of an index.
fn scramble(i: usize) -> u64 {
    let bits = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (bits ^ bits >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16
}

/// In `[-1, 1)`.
fn float(i: usize) -> f32 {
    (scramble(i) & 0xFFFF) as f32 / 32768.0 - 1.0
}

fn byte(i: usize) -> u8 {
    scramble(i) as u8
}

/// A weight in `[-127, 127]`, never zero.
fn int8(i: usize) -> i8 {
    let value = (scramble(i) % 254) as i16 - 127;
    (if value >= 0 { value + 1 } else { value }) as i8
}

/// Zeros of a sparse weight, in a hundred.
const ZEROS: u64 = 90;

/// A weight of which a share is zero, without any pattern.
fn sparse<T: Number>(size: (usize, usize), value: impl Fn(usize) -> T) -> Matrix {
    stacks(size, 1, value)
}

/// A weight of which a share is zero, `height` rows having their non-zeros in the same columns.
fn stacks<T: Number>((m, k): (usize, usize), height: usize, value: impl Fn(usize) -> T) -> Matrix {
    let keep = |i: usize| scramble((i / k / height * k + i % k) ^ 0x5555_5555) % 100 >= ZEROS;
    let rows: Vec<T> = (0..m * k).map(|i| if keep(i) { value(i) } else { T::default() }).collect();
    let scales = (T::DTYPE == gossamer_core::tensor::DType::Int8).then(|| vec![1.0 / 127.0; m]);
    Matrix::pack((m, k, 1), &rows, scales).expect("a sparse matrix")
}

/// A weight of which a share is zero, four columns at a time.
fn fours<T: Number>((m, k): (usize, usize), value: impl Fn(usize) -> T) -> Matrix {
    let keep = |i: usize| scramble((i / 4) ^ 0x5555_5555) % 100 >= ZEROS;
    let rows: Vec<T> = (0..m * k).map(|i| if keep(i) { value(i) } else { T::default() }).collect();
    let scales = (T::DTYPE == gossamer_core::tensor::DType::Int8).then(|| vec![1.0 / 127.0; m]);
    Matrix::pack((m, k, 1), &rows, scales).expect("a sparse matrix")
}

/// A convolution: rows, depth and side of the output, and whether its input is gathered by taps (kernel 3) rather than
/// read where it lies (kernel 1).
type Conv = (&'static str, usize, usize, usize, bool);

const CONVS: [Conv; 5] = [
    ("resnet50 3x3 64x576", 64, 576, 56, true),
    ("resnet50 1x1 1024x256", 1024, 256, 14, false),
    ("resnet50 3x3 512x4608", 512, 4608, 7, true),
    ("mobilenet 1x1 96x16", 96, 16, 112, false),
    ("mobilenet 1x1 960x160", 960, 160, 7, false),
];

/// The other layers of `ResNet50`, for the kernel that dense networks live by.
const RESNET50: [Conv; 17] = [
    ("resnet50 7x7 64x147", 64, 147, 112, true),
    ("resnet50 1x1 64x64", 64, 64, 56, false),
    ("resnet50 1x1 256x64", 256, 64, 56, false),
    ("resnet50 1x1 64x256", 64, 256, 56, false),
    ("resnet50 1x1 128x256", 128, 256, 56, false),
    ("resnet50 3x3 128x1152", 128, 1152, 28, true),
    ("resnet50 1x1 512x128", 512, 128, 28, false),
    ("resnet50 1x1 512x256 /2", 512, 256, 28, true),
    ("resnet50 1x1 128x512", 128, 512, 28, false),
    ("resnet50 1x1 256x512", 256, 512, 28, false),
    ("resnet50 3x3 256x2304", 256, 2304, 14, true),
    ("resnet50 1x1 1024x512 /2", 1024, 512, 14, true),
    ("resnet50 1x1 256x1024", 256, 1024, 14, false),
    ("resnet50 1x1 512x1024", 512, 1024, 14, false),
    ("resnet50 1x1 2048x512", 2048, 512, 7, false),
    ("resnet50 1x1 2048x1024 /2", 2048, 1024, 7, true),
    ("resnet50 1x1 512x2048", 512, 2048, 7, false),
];

/// Narrow forms of a weight run the loops of the wide one: two layers tell.
const FEW: [Conv; 2] = [CONVS[1], CONVS[2]];

/// Fully connected: outputs, inputs and vectors.
const LINEARS: [(&str, usize, usize, usize); 3] = [
    ("resnet50 fc 1000x2048", 1000, 2048, 1),
    ("mobilenet fc 1000x1280", 1000, 1280, 1),
    ("resnet50 fc, batch 8", 1000, 2048, 8),
];

/// Depthwise, of `MobileNetV2`: channels, side of the input, stride.
const DEPTHWISES: [(usize, usize, usize); 4] = [(96, 112, 2), (144, 56, 1), (384, 14, 1), (960, 7, 1)];

fn work(macs: usize, read: usize, written: usize) -> Work {
    Work { macs, int8: false, read, written, times: 1 }
}

fn work_i8(macs: usize, read: usize, written: usize) -> Work {
    Work { macs, int8: true, read, written, times: 1 }
}

fn label(name: &str, side: usize) -> String {
    format!("{name}, {side}x{side}")
}

/// A float32 strip kernel over every column of a layer; `call` is given all of a strip but its weight.
///
/// Where the input is gathered, all strips read one panel, as packing leaves it: packing has a table of its own.
fn strips(
    (name, m, k, side, gathered): Conv,
    (nr, kb): (usize, usize),
    (macs, bytes): (usize, usize),
    call: impl Fn(Strip<'_, ()>) + 'static,
) -> Case {
    let plane = side * side;
    let (pitch, x_pitch) = (pitch(m, plane, DType::Float32), pitch(k, plane, DType::Float32));
    let panel_stride = if gathered { nr } else { x_pitch };
    let x = Buffer::filled(k * panel_stride, float);
    let mut out = Buffer::<f32>::new(m * pitch);
    let read = bytes + 4 * if gathered { k * nr } else { k * plane };
    // As a layer on one thread cuts its columns.
    let cut = split(plane, plane.div_ceil(nr), LANES_F32);
    let call = move || {
        for (j, end) in (0..cut.len()).map(|i| cut.at(i)) {
            for k0 in (0..k).step_by(kb) {
                let k1 = (k0 + kb).min(k);
                call(Strip {
                    weight: (),
                    rows: (0, m),
                    block: (k0, k1),
                    panel: x[k0 * panel_stride + if gathered { 0 } else { j }..].as_ptr(),
                    panel_stride,
                    n: end - j,
                    out: out[j..].as_mut_ptr(),
                    out_stride: pitch,
                    residual: null(),
                    epilogue: Epilogue { clamp: [0.0, f32::INFINITY], ..Epilogue::NONE },
                    first: k0 == 0,
                    last: k1 == k,
                });
            }
        }
    };
    Case { layer: label(name, side), work: work(macs * plane, read, 4 * m * plane), call: Box::new(call) }
}

/// The strip with its weight.
fn with<'a, W>(strip: Strip<'_, ()>, weight: W, scale: Option<&'a [f32]>) -> Strip<'a, W> {
    let Strip { rows, block, panel, panel_stride, n, out, out_stride, residual, first, last, .. } = strip;
    let epilogue = Epilogue { scale, bias: None, clamp: strip.epilogue.clamp };
    Strip { weight, rows, block, panel, panel_stride, n, out, out_stride, residual, epilogue, first, last }
}

fn gemm_f32(kernel: StripKernel<gemm_f32::Run>) -> Vec<Case> {
    let case = |conv: Conv| {
        let (_, m, k, ..) = conv;
        let rows: Vec<f32> = (0..m * k).map(float).collect();
        let weight = Matrix::dense((m, k, 1), &rows, None).expect("a dense matrix");
        strips(conv, (kernel.nr, kernel.kb), (m * k, weight.bytes()), move |strip| {
            // SAFETY: the table gave the kernel; `strips` has the rows, columns and depth, each row to a whole vector.
            unsafe { (kernel.run)(&with(strip, weight.tiles(0), None)) }
        })
    };
    CONVS.into_iter().chain(RESNET50).map(case).collect()
}

fn spmm_f32<T: Number>(
    kernel: StripKernel<spmm_f32::Run<T>>,
    layers: &[Conv],
    value: fn(usize) -> T,
) -> Vec<Case> {
    let case = |&conv: &Conv| {
        let weight = sparse((conv.1, conv.2), value);
        let block = weight.rows::<T>().block();
        strips(conv, (kernel.nr, block), (weight.nnz(), weight.bytes()), move |strip| {
            // SAFETY: the table gave the kernel; `strips` has the rows, columns and depth, each row to a whole vector, and
            // cuts the depth as the weight does.
            unsafe { (kernel.run)(&with(strip, weight.rows::<T>(), weight.scales())) }
        })
    };
    layers.iter().map(case).collect()
}

fn spmm_stacks<T: Number, const H: usize>(
    kernel: StripKernel<spmm_f32::Run<[T; H]>>,
    value: fn(usize) -> T,
) -> Vec<Case> {
    let case = |&conv: &Conv| {
        let weight = stacks((conv.1, conv.2), H, value);
        let block = weight.stacks::<T, H>().block();
        strips(conv, (kernel.nr, block), (weight.nnz(), weight.bytes()), move |strip| {
            // SAFETY: as for single rows.
            unsafe { (kernel.run)(&with(strip, weight.stacks::<T, H>(), weight.scales())) }
        })
    };
    FEW.iter().map(case).collect()
}

fn spmm_fours<T: Number>(
    kernel: StripKernel<spmm_f32::Run<[T; 4]>>,
    layers: &[Conv],
    value: fn(usize) -> T,
) -> Vec<Case> {
    let case = |&conv: &Conv| {
        let weight = fours((conv.1, conv.2), value);
        let block = weight.fours::<T>().block() * 4;
        strips(conv, (kernel.nr, block), (weight.nnz(), weight.bytes()), move |strip| {
            // SAFETY: as for single values.
            unsafe { (kernel.run)(&with(strip, weight.fours::<T>(), weight.scales())) }
        })
    };
    layers.iter().map(case).collect()
}

/// Both transforms of as many channels as a thread turns at a time; the product between them is the float32 one's.
fn winograd_f32(pair: fn() -> winograd_f32::Kernels) -> Vec<Case> {
    let kernels = pair();
    let case = |(name, side): (&str, usize)| {
        let (channels, plane, window) = (8, side * side, window(side, 1));
        let tiles: (usize, usize) =
            (0, winograd_f32::tiles(&window).expect("a window of 3 x 3").iter().product());
        let apart = tiles.1.next_multiple_of(LANES_F32);
        let x = Buffer::filled(channels * plane, float);
        let mut points = Buffer::<f32>::new(winograd_f32::POINTS * apart);
        let mut out = Buffer::<f32>::new(channels * plane);
        let call = move || {
            for (x, out) in x.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
                let points = points.as_mut_ptr();
                let take = winograd_f32::Take { window: &window, x, tiles, points, apart };
                let mut give = winograd_f32::Give {
                    window: &window,
                    points,
                    apart,
                    tiles,
                    bias: 0.5,
                    residual: None,
                    clamp: [0.0, f32::INFINITY],
                    out,
                };
                // SAFETY: the table gave the kernels; points are there for every tile, to whole vectors.
                unsafe {
                    (kernels.take)(&take);
                    (kernels.give)(&mut give);
                }
            }
        };
        // One channel's points lie in the nearest cache, so they count as read and written once a channel.
        let bytes = 4 * (plane + winograd_f32::POINTS * apart);
        let work = Work { times: channels, ..work(0, bytes, bytes) };
        Case { layer: format!("{name}, {side}x{side}"), work, call: Box::new(call) }
    };
    [("8 channels there and back", 56), ("8 channels there and back", 14)].map(case).into()
}

/// What is done to integer sums.
struct Finish {
    offset: Vec<i32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
}

impl Finish {
    /// For `m` rows of a sum that deep.
    fn new(m: usize, k: usize) -> Finish {
        let scale = 1.0 / (60.0 * (k as f32).sqrt());
        Finish { offset: vec![0; m], scale: vec![scale; m], bias: vec![128.0; m] }
    }

    fn requant(&self) -> Requant<'_> {
        let output = Output::U8 { zero_point: 0, lo: 0, hi: 255 };
        Requant { offset: &self.offset, scale: &self.scale, bias: &self.bias, residual: None, output }
    }
}

fn dense_i8(m: usize, k: usize) -> Matrix {
    let rows: Vec<i8> = (0..m * k).map(int8).collect();
    Matrix::dense((m, k, 1), &rows, Some(vec![1.0; m])).expect("a dense matrix")
}

/// Each strip is interleaved first, by the kernel's own `pack`, as the layer does it; `run` is given all but the weight, of
/// `macs` values and `bytes`.
fn interleaved(
    (name, m, k, side, gathered): Conv,
    (macs, bytes): (usize, usize),
    pack: Pack,
    run: impl Fn(&StripI8<'_, ()>) + 'static,
) -> Case {
    let (plane, depth) = (side * side, k.next_multiple_of(DEPTH));
    let x_pitch = if gathered { NR } else { pitch(k, plane, DType::UInt8) };
    let finish = Finish::new(m, macs / m);
    let read = bytes + k * if gathered { NR } else { plane };
    let x = Buffer::filled(k * x_pitch, byte);
    let out_stride = pitch(m, plane, DType::UInt8);
    let (mut panel, mut out) = (Buffer::<u8>::new(depth * NR), Buffer::<u8>::new(m * out_stride));
    let call = move || {
        for j in (0..plane).step_by(NR) {
            let from = if gathered { 0 } else { j };
            let rows: Vec<*const u8> = (0..k).map(|k| x[k * x_pitch + from..].as_ptr()).collect();
            let n = NR.min(plane - j);
            // SAFETY: the table gave the kernel; rows of the input and the panel go to whole vectors.
            unsafe { pack(&rows, n, panel.as_mut_ptr(), NR) };
            run(&StripI8 {
                weight: (),
                rows: (0, m),
                panel: panel.as_ptr(),
                panel_stride: NR,
                n,
                out: out[j..].as_mut_ptr(),
                out_stride,
                residual: null(),
                residual_stride: 0,
                requant: finish.requant(),
            });
        }
    };
    Case { layer: label(name, side), work: work_i8(macs * plane, read, m * plane), call: Box::new(call) }
}

fn gemm_i8(kernel: gemm_i8::Kernel) -> Vec<Case> {
    let case = |conv: Conv| {
        let weight = dense_i8(conv.1, conv.2);
        let (magnitudes, blocks) =
            (gemm_i8::Magnitudes::new(&weight.tiles_i8(0)), gemm_i8::Blocks::new(&weight.tiles_i8(0)));
        interleaved(conv, (conv.1 * conv.2, weight.bytes()), kernel.pack(), move |strip| {
            // SAFETY: the table gave the kernel; rows of the panel and the output go to whole vectors.
            unsafe {
                match kernel {
                    gemm_i8::Kernel::Tiles(kernel) => (kernel.run)(&strip.with(weight.tiles_i8(0))),
                    gemm_i8::Kernel::Magnitudes(kernel) => (kernel.run)(&strip.with(&magnitudes)),
                    gemm_i8::Kernel::Blocks(kernel) => (kernel.run)(&strip.with(&blocks)),
                }
            }
        })
    };
    CONVS.map(case).into()
}

/// An image is packed and computed whole.
fn conv_i8(kernel: conv_i8::Kernel) -> Vec<Case> {
    let case = |(name, m, k, side, _): Conv| {
        let (channels, plane) = (k / 9, side * side);
        let window = window(side, 1);
        let packing = Packing::new(&window, channels, side).expect("a small image");
        let filters = Filters::new(&(0..m * k).map(int8).collect::<Vec<i8>>(), m, &packing);
        let tiles: Vec<_> = (0..packing.tiles(side)).map(|tile| packing.tile(tile)).collect();
        let offsets = packing.offsets();
        let (x_pitch, pitch) = (pitch(channels, plane, DType::UInt8), pitch(m, plane, DType::UInt8));
        let finish = Finish::new(m, k);
        let work = work_i8(m * k * plane, filters.bytes() + channels * plane, m * plane);
        let x = Buffer::filled(channels * x_pitch, byte);
        let (mut image, mut out) = (Buffer::<u8>::new(packing.bytes()), Buffer::<u8>::new(m * pitch));
        let call = move || {
            let (x, rows, image) = (x.as_ptr(), (0, side), image.as_mut_ptr());
            // SAFETY: the table gave the kernel; planes, image and output are whole, and all is of one packing.
            unsafe {
                (kernel.pack)(&PackImage { packing: &packing, rows, x, pitch: x_pitch, padding: 3, image });
                for tiles in tiles.chunks(TILES) {
                    let (first, len) = (tiles[0].at, packing.tile_len());
                    (kernel.run)(&StripI8 {
                        weight: Seen { filters: &filters, offsets: &offsets, tiles, len },
                        rows: (0, m),
                        panel: image,
                        panel_stride: packing.pixel(),
                        n: tiles[tiles.len() - 1].at + len - first,
                        out: out[first..].as_mut_ptr(),
                        out_stride: pitch,
                        residual: null(),
                        residual_stride: 0,
                        requant: finish.requant(),
                    });
                }
            }
        };
        Case { layer: label(name, side), work, call: Box::new(call) }
    };
    CONVS.into_iter().filter(|conv| conv.4).map(case).collect()
}

fn spmm_fours_i8(kernel: StripI8Kernel<spmm_i8::fours::Run>) -> Vec<Case> {
    let case = |conv: Conv| {
        let weight = fours((conv.1, conv.2), int8);
        interleaved(conv, (weight.nnz(), weight.bytes()), kernel.pack, move |strip| {
            // SAFETY: as above.
            unsafe { (kernel.run)(&strip.with(weight.fours())) }
        })
    };
    CONVS.map(case).into()
}

fn spmm_i8(kernel: spmm_i8::Kernel) -> Vec<Case> {
    let case = |(name, m, k, side, gathered): Conv| {
        let plane = side * side;
        let out_stride = pitch(m, plane, DType::UInt8);
        let nr = kernel.nr();
        let x_pitch = if gathered { nr } else { pitch(k, plane, DType::UInt8) };
        let (weight, finish) = (sparse((m, k), int8), Finish::new(m, k / 10));
        let read = weight.bytes() + k * if gathered { nr } else { plane };
        let macs = weight.nnz() * plane;
        let quads = match kernel {
            spmm_i8::Kernel::Quads(kernel) => Some((kernel.made)(&weight.rows())),
            spmm_i8::Kernel::Rows(_) => None,
        };
        let x = Buffer::filled(k * x_pitch, byte);
        let mut out = Buffer::<u8>::new(m * out_stride);
        let call = move || {
            for j in (0..plane).step_by(nr) {
                let strip = StripI8 {
                    weight: (),
                    rows: (0, m),
                    panel: x[if gathered { 0 } else { j }..].as_ptr(),
                    panel_stride: x_pitch,
                    n: nr.min(plane - j),
                    out: out[j..].as_mut_ptr(),
                    out_stride,
                    residual: null(),
                    residual_stride: 0,
                    requant: finish.requant(),
                };
                let rows = weight.rows::<i8>();
                // SAFETY: the table gave the kernel; rows of the panel and the output go to whole lines.
                unsafe {
                    match kernel {
                        spmm_i8::Kernel::Rows(run) => run(&strip.with(rows)),
                        spmm_i8::Kernel::Quads(kernel) => {
                            (kernel.run)(&strip.with(quads.as_ref().expect("made above")));
                        }
                    }
                }
            }
        };
        Case { layer: label(name, side), work: work_i8(macs, read, m * plane), call: Box::new(call) }
    };
    CONVS.map(case).into()
}

fn gemv_f32<T: Number>(kernel: gemv_f32::Run<T>, value: fn(usize) -> T) -> Vec<Case> {
    let case = |(name, m, k, n): (&str, usize, usize, usize)| {
        let rows: Vec<T> = (0..m * k).map(value).collect();
        let weight = Matrix::dense((m, k, 1), &rows, None).expect("a dense matrix");
        let work = work(m * k * n, weight.bytes() + 4 * k * n, 4 * m * n);
        let x = Buffer::filled(k * n, float);
        let mut out = Buffer::<f32>::new(m * n);
        let call = move || {
            let call = gemv_f32::Gemv {
                weight: weight.tiles::<T>(0),
                rows: (0, m),
                x: x.as_ptr(),
                x_stride: k,
                n,
                out: out.as_mut_ptr(),
                out_stride: m,
                residual: null(),
                epilogue: Epilogue::NONE,
            };
            // SAFETY: the table gave the kernel; the buffers are `n` vectors of `k` and `m` elements.
            unsafe { kernel(&call) };
        };
        Case { layer: name.to_owned(), work, call: Box::new(call) }
    };
    LINEARS.map(case).into()
}

fn spmv_f32<T: Number>(kernel: spmv_f32::Kernel<T>, value: fn(usize) -> T) -> Vec<Case> {
    let case = |(name, m, k, n): (&str, usize, usize, usize)| {
        let weight = sparse((m, k), value);
        let x = Buffer::filled(k * n, float);
        let mut out = Buffer::<f32>::new(m * n);
        let work = work(weight.nnz() * n, weight.bytes() + 4 * k * n, 4 * m * n);
        let packed = match kernel {
            spmv_f32::Kernel::Rows(_) => None,
            spmv_f32::Kernel::Packed { window, .. } => {
                Some(spmv_f32::Packed::new(&weight.rows::<T>(), window))
            }
        };
        let call = move || {
            let mut vectors = Vectors { weight: &weight, n, x: &x, out: &mut out };
            // SAFETY: the table gave the kernel; the buffers are `n` vectors of `k` and `m` elements.
            unsafe {
                match (kernel, &packed) {
                    (spmv_f32::Kernel::Packed { run, .. }, Some(packed)) => run(&vectors.call(packed)),
                    (spmv_f32::Kernel::Rows(run), _) => run(&vectors.call(weight.rows::<T>())),
                    _ => unreachable!("the form was made for the kernel"),
                }
            }
        };
        Case { layer: name.to_owned(), work, call: Box::new(call) }
    };
    LINEARS.map(case).into()
}

fn spmv_fours<T: Number>(run: spmv_f32::RunRows<[T; 4]>, value: fn(usize) -> T) -> Vec<Case> {
    let case = |(name, m, k, n): (&str, usize, usize, usize)| {
        let weight = fours((m, k), value);
        let x = Buffer::filled(k * n, float);
        let mut out = Buffer::<f32>::new(m * n);
        let work = work(weight.nnz() * n, weight.bytes() + 4 * k * n, 4 * m * n);
        let call = move || {
            let mut vectors = Vectors { weight: &weight, n, x: &x, out: &mut out };
            // SAFETY: the table gave the kernel; the buffers are `n` vectors of `k` and `m` elements.
            unsafe { run(&vectors.call(weight.fours::<T>())) }
        };
        Case { layer: name.to_owned(), work, call: Box::new(call) }
    };
    LINEARS.map(case).into()
}

/// A sparse weight and the vectors it multiplies.
struct Vectors<'a> {
    weight: &'a Matrix,
    n: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectors<'_> {
    fn call<W>(&mut self, weight: W) -> spmv_f32::Call<'_, W> {
        let (m, k) = (self.weight.m(), self.weight.k());
        spmv_f32::Call {
            weight,
            tiles: (0, m.div_ceil(TILE)),
            n: self.n,
            x: self.x.as_ptr(),
            x_stride: k,
            out: self.out.as_mut_ptr(),
            out_stride: m,
            residual: null(),
            epilogue: Epilogue { scale: self.weight.scales(), ..Epilogue::NONE },
        }
    }
}

/// Bytes times a weight, output channels in the lanes; `call` is given all but the weight.
fn rows_i8(
    (name, m, k, n): (&str, usize, usize, usize),
    (macs, bytes): (usize, usize),
    call: impl Fn(RowsI8<'_, ()>) + 'static,
) -> Case {
    let (x, mut out) = (Buffer::filled(k * n, byte), Buffer::<u8>::new(m * n));
    let finish = Finish::new(m, macs / m);
    let call = move || {
        call(RowsI8 {
            weight: (),
            rows: (0, m),
            x: x.as_ptr(),
            x_stride: k,
            n,
            out: out.as_mut_ptr(),
            out_stride: m,
            residual: null(),
            residual_stride: 0,
            requant: finish.requant(),
            each: None,
        });
    };
    Case { layer: name.to_owned(), work: work_i8(macs * n, bytes + k * n, m * n), call: Box::new(call) }
}

/// The rows with their weight.
fn with_i8<W>(rows: RowsI8<'_, ()>, weight: W) -> RowsI8<'_, W> {
    let RowsI8 {
        weight: (),
        rows,
        x,
        x_stride,
        n,
        out,
        out_stride,
        residual,
        residual_stride,
        requant,
        each,
    } = rows;
    RowsI8 { weight, rows, x, x_stride, n, out, out_stride, residual, residual_stride, requant, each }
}

fn gemv_i8(kernel: gemv_i8::Kernel) -> Vec<Case> {
    let tokens = ("384x1536, 128 tokens", 384, 1536, 128);
    let case = |linear: (&str, usize, usize, usize)| {
        let weight = dense_i8(linear.1, linear.2);
        rows_i8(linear, (linear.1 * linear.2, weight.bytes()), move |rows| {
            // SAFETY: the table gave the kernel; `rows_i8` has the vectors.
            unsafe { kernel(&with_i8(rows, weight.tiles_i8(0))) }
        })
    };
    LINEARS.into_iter().chain([tokens]).map(case).collect()
}

fn spmv_i8(kernel: spmv_i8::Kernel) -> Vec<Case> {
    let case = |linear: (&str, usize, usize, usize)| {
        let weight = sparse((linear.1, linear.2), int8);
        let amount = (weight.nnz(), weight.bytes());
        match kernel {
            spmv_i8::Kernel::Rows(run) => rows_i8(linear, amount, move |rows| {
                // SAFETY: the table gave the kernel; `rows_i8` has the vectors.
                unsafe { run(&with_i8(rows, weight.rows::<i8>())) }
            }),
            spmv_i8::Kernel::Packed { pack, run } => {
                let packed = pack(&weight.rows::<i8>());
                rows_i8(linear, amount, move |rows| {
                    // SAFETY: as above.
                    unsafe { run(&with_i8(rows, &packed)) }
                })
            }
        }
    };
    LINEARS.map(case).into()
}

fn spmv_fours_i8(kernel: spmv_i8::fours::Kernel) -> Vec<Case> {
    let case = |linear: (&str, usize, usize, usize)| {
        let weight = fours((linear.1, linear.2), int8);
        let amount = (weight.nnz(), weight.bytes());
        match kernel {
            spmv_i8::fours::Kernel::Rows(run) => rows_i8(linear, amount, move |rows| {
                // SAFETY: the table gave the kernel; `rows_i8` has the vectors.
                unsafe { run(&with_i8(rows, weight.fours::<i8>())) }
            }),
            spmv_i8::fours::Kernel::Packed(run) => {
                let packed = spmv_i8::fours::pack(&weight.fours::<i8>());
                rows_i8(linear, amount, move |rows| {
                    // SAFETY: as above.
                    unsafe { run(&with_i8(rows, &packed)) }
                })
            }
        }
    };
    LINEARS.map(case).into()
}

/// A window of kernel 3, padded by 1.
fn window(side: usize, stride: usize) -> Window2 {
    Window2::padded([side; 2], [3; 2], [stride; 2], [1; 2], [[1; 2]; 2], false).expect("a window")
}

fn depthwise_label(channels: usize, side: usize, stride: usize) -> String {
    format!("mobilenet dw {channels}, {side}x{side} /{stride}")
}

fn depthwise_f32(kernel: depthwise_f32::Kernel) -> Vec<Case> {
    let case = |(channels, side, stride): (usize, usize, usize)| {
        let window = window(side, stride);
        let (plane, outputs) = (side * side, window.output().iter().product::<usize>());
        let (x_pitch, out_pitch) =
            (pitch(channels, plane, DType::Float32), pitch(channels, outputs, DType::Float32));
        let (x, mut out) = (Buffer::filled(channels * x_pitch, float), Buffer::new(channels * out_pitch));
        let (weights, bias): (Vec<f32>, _) = ((0..9 * channels).map(float).collect(), vec![0.5; channels]);
        let call = move || {
            let channels = depthwise_f32::Channels {
                window: &window,
                x: &x,
                x_pitch,
                weights: &weights,
                bias: &bias,
                residual: None,
                clamp: [0.0, 6.0],
                out_pitch,
            };
            kernel(&channels, &mut out);
        };
        let work = work(9 * channels * outputs, 4 * channels * plane, 4 * channels * outputs);
        Case { layer: depthwise_label(channels, side, stride), work, call: Box::new(call) }
    };
    DEPTHWISES.map(case).into()
}

fn depthwise_i8(kernel: depthwise_i8::Kernel) -> Vec<Case> {
    let case = |(channels, side, stride): (usize, usize, usize)| {
        let window = window(side, stride);
        let (plane, outputs) = (side * side, window.output().iter().product::<usize>());
        let (x_pitch, out_pitch) =
            (pitch(channels, plane, DType::UInt8), pitch(channels, outputs, DType::UInt8));
        let (x, mut out) = (Buffer::filled(channels * x_pitch, byte), Buffer::new(channels * out_pitch));
        let weights: Vec<i8> = (0..9 * channels).map(int8).collect();
        let finish = Finish::new(channels, 9);
        let call = move || {
            let channels = depthwise_i8::Channels {
                window: &window,
                x: &x,
                x_pitch,
                x_zero_point: 0,
                weights: &weights,
                requant: finish.requant(),
                residual: &[],
                residual_pitch: 0,
                out_pitch,
            };
            kernel(&channels, &mut out);
        };
        let work = work_i8(9 * channels * outputs, channels * plane, channels * outputs);
        Case { layer: depthwise_label(channels, side, stride), work, call: Box::new(call) }
    };
    DEPTHWISES.map(case).into()
}

/// A pooling of one plane.
type Pool<T> = Box<dyn Fn(&Window2, &[T], &mut [T])>;

/// The poolings of `ResNet50`, `T` being what is pooled: the greatest of 3x3, the average of the same, the mean of a plane.
fn pools<T: Pod>(
    value: fn(usize) -> T,
    max: impl Fn(&Window2, &[T], &mut [T]) + 'static,
    average: impl Fn(&Window2, &[T], &mut [T]) + 'static,
    mean: impl Fn(&[T]) -> T + 'static,
) -> Vec<Case> {
    let windowed = |name: &str, pool: Pool<T>| {
        let (channels, side, window) = (64, 112, window(112, 2));
        let (plane, outputs) = (side * side, window.output().iter().product::<usize>());
        let (x, mut out) = (Buffer::filled(channels * plane, value), Buffer::<T>::new(channels * outputs));
        let call = move || {
            for (x, out) in x.chunks_exact(plane).zip(out.chunks_exact_mut(outputs)) {
                pool(&window, x, out);
            }
        };
        let size = size_of::<T>();
        let work = work(0, channels * plane * size, channels * outputs * size);
        Case { layer: format!("{name} {channels}, {side}x{side} /2"), work, call: Box::new(call) }
    };
    let (channels, plane) = (2048, 49);
    let (x, mut out) = (Buffer::filled(channels * plane, value), Buffer::<T>::new(channels));
    let call = move || x.chunks_exact(plane).zip(out.iter_mut()).for_each(|(x, out)| *out = mean(x));
    let work = work(0, channels * plane * size_of::<T>(), channels * size_of::<T>());
    vec![
        windowed("max", Box::new(max)),
        windowed("average", Box::new(average)),
        Case { layer: format!("mean {channels}, 7x7"), work, call: Box::new(call) },
    ]
}

fn pool_f32(kernels: pool_f32::Kernels) -> Vec<Case> {
    let average = move |window: &_, x: &_, out: &mut _| (kernels.average)(window, Divisor::Inside, x, out);
    pools(float, kernels.max, average, kernels.mean)
}

fn pool_i8(kernels: pool_i8::Kernels) -> Vec<Case> {
    let rescale = pool_i8::Rescale { x_zero_point: 3, scale: 0.9, zero_point: 5, lo: 0, hi: 255 };
    let average =
        move |window: &_, x: &_, out: &mut _| (kernels.average)(window, Divisor::Inside, rescale, x, out);
    pools(byte, kernels.max, average, move |x| (kernels.mean)(x, rescale))
}

/// Elements of an activation of `MobileNetV2`, 144 channels of 56x56.
const ACTIVATION: usize = 144 * 56 * 56;

/// A layer that moves that activation and little else.
fn moves(name: &str, (read, written): (usize, usize), call: impl FnMut() + 'static) -> Case {
    Case { layer: format!("{name} 144, 56x56"), work: work(0, read, written), call: Box::new(call) }
}

fn maps(kernel: map::MapFn) -> Vec<Case> {
    let case = |(name, f): (&str, map::Map)| {
        let (x, mut y) = (Buffer::filled(ACTIVATION, float), Buffer::<f32>::new(ACTIVATION));
        moves(name, (4 * ACTIVATION, 4 * ACTIVATION), move || map::apply(kernel, f, &x, &mut y))
    };
    use map::Map::{Gelu, Hardswish, Relu6, Sigmoid, Silu, Tanh};
    let functions = [("relu6", Relu6), ("hardswish", Hardswish), ("sigmoid", Sigmoid), ("silu", Silu)];
    functions.into_iter().chain([("tanh", Tanh), ("gelu", Gelu)]).map(case).collect()
}

fn binaries(kernel: binary::Row) -> Vec<Case> {
    let case = |(name, f, step): (&str, binary::Binary, usize)| {
        let (a, b) = (Buffer::filled(ACTIVATION, float), Buffer::filled(ACTIVATION, float));
        let mut out = Buffer::<f32>::new(ACTIVATION);
        moves(name, (4 * ACTIVATION * (1 + step), 4 * ACTIVATION), move || {
            let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
            // SAFETY: all three buffers have the elements; every function here is defined on float32.
            unsafe { kernel(f, a, 1, b, step, out.as_mut_ptr().cast(), ACTIVATION) };
        })
    };
    [("add", binary::Binary::Add, 1), ("mul by one number", binary::Binary::Mul, 0)].map(case).into()
}

fn reductions(kernel: reduce::ReduceFn) -> Vec<Case> {
    let case = |(name, f, dims): (&str, Reduce, Dims)| {
        let (x, mut out) = (Buffer::filled(dims.len(), float), vec![0.0; dims.reduced()]);
        let work = work(0, 4 * dims.len(), 4 * dims.reduced());
        let layer = format!("{name} {}x{}x{}", dims.outer, dims.axis, dims.inner);
        Case { layer, work, call: Box::new(move || kernel(f, dims, &x, &mut out)) }
    };
    let cases = [
        ("mean", Reduce::Mean, Dims::rows(144, 56 * 56)),
        ("mean", Reduce::Mean, Dims::new(1, 196, 768)),
        ("max", Reduce::Max, Dims::rows(144, 56 * 56)),
    ];
    cases.map(case).into()
}

fn softmaxes(kernel: reduce::softmax::SoftmaxFn) -> Vec<Case> {
    let case = |(name, dims): (&str, Dims)| {
        let (x, mut y) = (Buffer::filled(dims.len(), float), Buffer::<f32>::new(dims.len()));
        let work = work(0, 4 * dims.len(), 4 * dims.len());
        let layer = format!("{name} {}x{}x{}", dims.outer, dims.axis, dims.inner);
        let call = move || reduce::softmax::softmax(kernel, false, dims, &x, &mut y);
        Case { layer, work, call: Box::new(call) }
    };
    [("classes", Dims::rows(32, 1000)), ("attention", Dims::rows(12 * 196, 196))].map(case).into()
}

fn layer_norms(kernel: reduce::norm::LayerFn) -> Vec<Case> {
    let dims = Dims::rows(196, 768);
    let (x, mut y) = (Buffer::filled(dims.len(), float), Buffer::<f32>::new(dims.len()));
    let (scale, shift) = (vec![1.5; dims.axis], vec![0.5; dims.axis]);
    let call = move || {
        let norm = Norm { eps: 1e-5, center: true, scale: Some(&scale), shift: Some(&shift) };
        reduce::norm::layer_norm(kernel, &norm, dims, &x, &mut y);
    };
    let work = work(0, 4 * dims.len(), 4 * dims.len());
    vec![Case { layer: "tokens 196x768".to_owned(), work, call: Box::new(call) }]
}

fn group_norms(kernel: reduce::norm::GroupFn) -> Vec<Case> {
    let group = Group { channels: 8, plane: 56 * 56, pitch: 56 * 56 };
    let n = group.channels * group.pitch;
    let (x, mut y) = (Buffer::filled(n, float), Buffer::<f32>::new(n));
    let (scale, shift) = (vec![1.5; group.channels], vec![0.5; group.channels]);
    let call = move || {
        let norm = Norm { eps: 1e-5, center: true, scale: Some(&scale), shift: Some(&shift) };
        reduce::norm::group_norm(kernel, &norm, group, &x, &mut y);
    };
    vec![Case { layer: "8 channels, 56x56".to_owned(), work: work(0, 4 * n, 4 * n), call: Box::new(call) }]
}

const BYTES: Bytes = Bytes { zero_point: 12, lo: 0, hi: 255 };
const OPERAND: Operand = Operand { scale: 0.7, zero_point: 12 };

fn quantize(kernel: quantize::QuantizeFn) -> Vec<Case> {
    let (x, mut y) = (Buffer::filled(ACTIVATION, float), Buffer::<u8>::new(ACTIVATION));
    vec![moves("quantize", (4 * ACTIVATION, ACTIVATION), move || kernel(100.0, BYTES, &x, &mut y))]
}

fn range(kernel: quantize::RangeFn) -> Vec<Case> {
    let x = Buffer::filled(ACTIVATION, float);
    vec![moves("range", (4 * ACTIVATION, 0), move || {
        black_box(kernel(&x));
    })]
}

fn dequantize(kernel: quantize::DequantizeFn) -> Vec<Case> {
    let (x, mut y) = (Buffer::filled(ACTIVATION, byte), Buffer::<f32>::new(ACTIVATION));
    vec![moves("dequantize", (ACTIVATION, 4 * ACTIVATION), move || kernel(OPERAND, &x, &mut y))]
}

fn add(kernel: quantize::AddFn) -> Vec<Case> {
    let (a, b) = (Buffer::filled(ACTIVATION, byte), Buffer::filled(ACTIVATION, |i| byte(i + 1)));
    let mut y = Buffer::<u8>::new(ACTIVATION);
    vec![moves("add", (2 * ACTIVATION, ACTIVATION), move || {
        quantize::add(kernel, [OPERAND; 2], BYTES, &a, &b, &mut y);
    })]
}

fn mul(kernel: quantize::MulFn) -> Vec<Case> {
    let case = |(name, step): (&str, usize)| {
        let (a, b) = (Buffer::filled(ACTIVATION, byte), Buffer::filled(ACTIVATION, |i| byte(i + 1)));
        let mut y = Buffer::<u8>::new(ACTIVATION);
        let product = quantize::Product { zero_points: [12, 7], scale: 0.01, bytes: BYTES };
        moves(name, (ACTIVATION * (1 + step), ACTIVATION), move || {
            // SAFETY: all three buffers have the bytes, and lie apart.
            unsafe { kernel(product, a.as_ptr(), b.as_ptr(), [1, step], y.as_mut_ptr(), ACTIVATION) };
        })
    };
    [("mul", 1), ("mul by one byte", 0)].map(case).into()
}

fn blend(kernel: quantize::BlendFn) -> Vec<Case> {
    // Two rows of an image that is made larger, into a row of the new one.
    let (a, b) = (Buffer::filled(ACTIVATION, float), Buffer::filled(ACTIVATION, |i| float(i + 1)));
    let mut y = Buffer::<u8>::new(ACTIVATION);
    vec![moves("blend", (8 * ACTIVATION, ACTIVATION), move || kernel([100.0, 50.0], &a, &b, &mut y))]
}

fn lookup(kernel: quantize::LookupFn) -> Vec<Case> {
    let (x, mut y) = (Buffer::filled(ACTIVATION, byte), Buffer::<u8>::new(ACTIVATION));
    let table = std::array::from_fn(byte);
    vec![moves("lookup", (ACTIVATION, ACTIVATION), move || quantize::lookup(kernel, &table, &x, &mut y))]
}

/// All nine taps of a layer's strips, one strip after the other into the same panel, which is to be filled each time.
fn packs<T: Pod>(kernel: pack::Run<T>, value: fn(usize) -> T, lanes: usize, padding: T) -> Vec<Case> {
    let case = |(name, channels, side, stride): (&str, usize, usize, usize)| {
        let window = window(side, stride);
        let (plane, outputs) = (side * side, window.output().iter().product::<usize>());
        let pitch = plane.next_multiple_of(lanes);
        let (x, n) = (Buffer::filled(channels * pitch, value), lanes.max(48));
        let mut panel = Buffer::<T>::new(9 * channels * n);
        let bytes = 9 * channels * n * size_of::<T>();
        let work = Work { times: outputs.div_ceil(n), ..work(0, bytes, bytes) };
        let call = move || {
            for j in (0..outputs).step_by(n) {
                let taps = &Taps::new(&window, (j, n.min(outputs - j)), lanes);
                for tap in 0..9 {
                    let out = panel[tap * n..].as_mut_ptr();
                    let x = x.as_ptr();
                    let fill = Fill { taps, tap, x, pitch, channels, out, out_stride: 9 * n, padding };
                    // SAFETY: the table gave the kernel; planes are the window's, rows of the panel whole vectors.
                    unsafe { kernel(&fill) };
                }
            }
        };
        Case { layer: format!("{name} {channels}, {side}x{side} /{stride}"), work, call: Box::new(call) }
    };
    [("resnet50 3x3", 64, 56, 1), ("resnet50 3x3", 128, 56, 2)].map(case).into()
}

fn transposes(kernel: relayout::TransposeFn) -> Vec<Case> {
    let case = |(name, rows, columns): (&str, usize, usize)| {
        let n = rows * columns;
        let (x, mut y) = (Buffer::filled(n, float), Buffer::<f32>::new(n));
        let call =
            move || relayout::transpose(kernel, (rows, columns), (&x[..n], columns), (&mut y[..n], rows));
        Case { layer: format!("{name} {rows}x{columns}"), work: work(0, 4 * n, 4 * n), call: Box::new(call) }
    };
    [("features to tokens", 144, 3136), ("tokens to features", 196, 768)].map(case).into()
}

fn half(i: usize) -> f16 {
    f16::from_f32(float(i) + 2.0)
}

/// float32 weights, none of them zero.
fn weight(i: usize) -> f32 {
    float(i) + 2.0
}

fn main() {
    let mut bench = Bench {
        criterion: Criterion::default()
            .warm_up_time(Duration::from_millis(20))
            .measurement_time(Duration::from_millis(150))
            .sample_size(10)
            .nresamples(1000)
            .without_plots()
            .configure_from_args(),
        measures: std::env::args().any(|arg| arg == "--bench"),
        lines: vec![],
    };
    for family in FAMILIES {
        let name = family.name;
        match name {
            "gemm_f32" => bench.table(name, gemm_f32::TABLE, gemm_f32),
            "gemm_i8" => bench.table(name, gemm_i8::TABLE, gemm_i8),
            "conv_i8" => bench.table(name, conv_i8::TABLE, conv_i8),
            "gemv_f32" => bench.table(name, gemv_f32::TABLE_F32, |kernel| gemv_f32(kernel, weight)),
            "gemv_f32 float16" => bench.table(name, gemv_f32::TABLE_F16, |kernel| gemv_f32(kernel, half)),
            "gemv_i8" => bench.table(name, gemv_i8::TABLE, gemv_i8),
            "spmm_f32" => bench.table(name, spmm_f32::TABLE_F32, |kernel| spmm_f32(kernel, &CONVS, weight)),
            "spmm_f32 float16" => {
                bench.table(name, spmm_f32::TABLE_F16, |kernel| spmm_f32(kernel, &FEW, half));
            }
            "spmm_f32 int8" => bench.table(name, spmm_f32::TABLE_I8, |kernel| spmm_f32(kernel, &FEW, int8)),
            "spmm_f32 1x4" => {
                bench.table(name, spmm_f32::fours::TABLE_F32, |k| spmm_fours(k, &CONVS, weight));
            }
            "spmm_f32 1x4 float16" => {
                bench.table(name, spmm_f32::fours::TABLE_F16, |k| spmm_fours(k, &FEW, half));
            }
            "spmm_f32 1x4 int8" => {
                bench.table(name, spmm_f32::fours::TABLE_I8, |k| spmm_fours(k, &FEW, int8));
            }
            "spmm_f32 2x1" => bench.table(name, stacked::TABLE_2_F32, |k| spmm_stacks(k, weight)),
            "spmm_f32 2x1 float16" => bench.table(name, stacked::TABLE_2_F16, |k| spmm_stacks(k, half)),
            "spmm_f32 2x1 int8" => bench.table(name, stacked::TABLE_2_I8, |k| spmm_stacks(k, int8)),
            "spmm_f32 4x1" => bench.table(name, stacked::TABLE_4_F32, |k| spmm_stacks(k, weight)),
            "spmm_f32 4x1 float16" => bench.table(name, stacked::TABLE_4_F16, |k| spmm_stacks(k, half)),
            "spmm_f32 4x1 int8" => bench.table(name, stacked::TABLE_4_I8, |k| spmm_stacks(k, int8)),
            "spmm_f32 16x1" => bench.table(name, stacked::TABLE_16_F32, |k| spmm_stacks(k, weight)),
            "spmm_f32 16x1 float16" => bench.table(name, stacked::TABLE_16_F16, |k| spmm_stacks(k, half)),
            "spmm_f32 16x1 int8" => bench.table(name, stacked::TABLE_16_I8, |k| spmm_stacks(k, int8)),
            "spmm_i8" => bench.table(name, spmm_i8::TABLE, spmm_i8),
            "spmm_i8 1x4" => bench.table(name, spmm_i8::fours::TABLE, spmm_fours_i8),
            "spmv_f32 1x4" => bench.table(name, spmv_f32::fours::TABLE_F32, |run| spmv_fours(run, weight)),
            "spmv_f32 1x4 float16" => {
                bench.table(name, spmv_f32::fours::TABLE_F16, |run| spmv_fours(run, half));
            }
            "spmv_f32 1x4 int8" => bench.table(name, spmv_f32::fours::TABLE_I8, |run| spmv_fours(run, int8)),
            "spmv_i8 1x4" => bench.table(name, spmv_i8::fours::TABLE, spmv_fours_i8),
            "spmv_f32" => bench.table(name, spmv_f32::TABLE_F32, |kernel| spmv_f32(kernel, weight)),
            "spmv_f32 float16" => bench.table(name, spmv_f32::TABLE_F16, |kernel| spmv_f32(kernel, half)),
            "spmv_f32 int8" => bench.table(name, spmv_f32::TABLE_I8, |kernel| spmv_f32(kernel, int8)),
            "spmv_i8" => bench.table(name, spmv_i8::TABLE, spmv_i8),
            "depthwise_f32" => bench.table(name, depthwise_f32::TABLE, depthwise_f32),
            "depthwise_i8" => bench.table(name, depthwise_i8::TABLE, depthwise_i8),
            "pool_f32" => bench.table(name, pool_f32::TABLE, pool_f32),
            "pool_i8" => bench.table(name, pool_i8::TABLE, pool_i8),
            "map" => bench.table(name, map::TABLE, maps),
            "binary" => bench.table(name, binary::TABLE, binaries),
            "reduce" => bench.table(name, reduce::TABLE, reductions),
            "reduce softmax" => bench.table(name, reduce::softmax::TABLE, softmaxes),
            "reduce layer_norm" => bench.table(name, reduce::norm::LAYER, layer_norms),
            "reduce group_norm" => bench.table(name, reduce::norm::GROUP, group_norms),
            "quantize range" => bench.table(name, quantize::RANGE, range),
            "quantize" => bench.table(name, quantize::QUANTIZE, quantize),
            "quantize back" => bench.table(name, quantize::DEQUANTIZE, dequantize),
            "quantize add" => bench.table(name, quantize::ADD, add),
            "quantize lookup" => bench.table(name, quantize::LOOKUP, lookup),
            "quantize mul" => bench.table(name, quantize::MUL, mul),
            "quantize blend" => bench.table(name, quantize::BLEND, blend),
            "pack float32" => {
                bench.table(name, pack::TABLE_F32, |kernel| packs(kernel, float, LANES_F32, 0.0));
            }
            "pack uint8" => bench.table(name, pack::TABLE_U8, |kernel| packs(kernel, byte, LANES_U8, 3)),
            "relayout" => bench.table(name, relayout::TABLE, transposes),
            "winograd_f32" => bench.table(name, winograd_f32::TABLE, winograd_f32),
            _ => panic!("{name}: a family without a case"),
        }
    }
    bench.criterion.final_summary();
    if bench.measures {
        bench.print();
    }
}
