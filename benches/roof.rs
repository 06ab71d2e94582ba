//! What a core could do at most: loops that do one thing, measured in the run whose kernels are compared with them.

#![allow(unsafe_code, reason = "loops compiled for a tier are called once the tier's token is held")]

use gossamer_core::isa::Tier;
use std::hint::black_box;
use std::time::Instant;

/// Independent sums of a loop: more than latency times units of any core here, and no more than it has registers.
const CHAINS: usize = 12;
/// Rounds of a loop: some ten microseconds, short enough to fall between two interruptions.
const ROUNDS: usize = 2_000;
/// Times a loop over memory is tried; the best counts.
const TRIES: usize = 25;

/// What a call has to do: multiply-adds, and bytes to read and write where every one moves once.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Multiply-adds of float32, or of bytes where `int8`.
    pub(crate) macs: usize,
    pub(crate) int8: bool,
    pub(crate) read: usize,
    pub(crate) written: usize,
    /// Times all of this is done, over the same bytes.
    pub(crate) times: usize,
}

/// What bounds a call from below.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// A loop of float32 multiply-adds.
    Fma,
    /// A loop of the tier's integer multiply-adds: `tdpbsud`, `vpdpbusd` or `sdot` where it has one.
    Dot,
    /// Reading, or copying, as many bytes that lie as near.
    Memory,
}

impl Bound {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bound::Fma => "fma",
            Bound::Dot => "dot",
            Bound::Memory => "memory",
        }
    }
}

/// Seconds of one loop of a tier's multiply-adds, to be taken between the calls that it is compared with: a core's clock
/// changes from one moment to the next.
pub(crate) fn arithmetic(tier: Tier, work: Work) -> f64 {
    let add = Loops::of(tier).add(work);
    let start = Instant::now();
    (add.run)(ROUNDS);
    start.elapsed().as_secs_f64()
}

/// The least seconds `work` takes on a tier, and what bounds it, the best [`arithmetic`] having taken `once`.
pub(crate) fn bound(tier: Tier, work: Work, once: f64) -> (f64, Bound) {
    let loops = Loops::of(tier);
    let arithmetic = if work.int8 { Bound::Dot } else { Bound::Fma };
    let computed = match work.macs {
        0 => 0.0,
        macs => macs as f64 * once / (ROUNDS * CHAINS * loops.add(work).macs) as f64,
    };
    let moved = moving(&loops, work);
    let (least, bound) = if computed >= moved { (computed, arithmetic) } else { (moved, Bound::Memory) };
    (work.times as f64 * least, bound)
}

/// Seconds to read the bytes, or, where enough are written to matter, to copy half as many as are read and written.
fn moving(loops: &Loops, work: Work) -> f64 {
    if work.written * 8 < work.read {
        let from = vec![1u8; work.read];
        return best(|| (loops.read)(&from));
    }
    let half = usize::midpoint(work.read, work.written);
    let (from, mut to) = (vec![1u8; half], vec![0u8; half]);
    best(|| black_box(&mut to).copy_from_slice(black_box(&from)))
}

fn best(mut f: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        f();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

/// A loop of multiply-adds: `run(rounds)` does `rounds * CHAINS * macs`.
#[derive(Clone, Copy)]
struct Adds {
    run: fn(usize),
    macs: usize,
}

/// The loops of a tier.
struct Loops {
    fma: Adds,
    dot: Adds,
    /// Reads every byte of whole cache lines.
    read: fn(&[u8]),
}

/// A loop over [`CHAINS`] sums; `$next` is what becomes of one.
macro_rules! chains {
    ($(#[$feature:meta])? $name:ident, $start:expr, |$sum:ident| $next:expr) => {
        $(#[$feature])?
        fn $name(rounds: usize) {
            let mut sums = [black_box($start); CHAINS];
            for _ in 0..rounds {
                for $sum in &mut sums {
                    *$sum = $next;
                }
            }
            black_box(sums);
        }
    };
}

/// A loop that reads whole cache lines into four sums; `$size` bytes a vector.
macro_rules! reads {
    ($(#[$feature:meta])? $name:ident, $size:literal, $zero:expr, $load:expr, $add:expr) => {
        $(#[$feature])?
        fn $name(from: &[u8]) {
            let mut sums = [$zero; 4];
            for line in from.as_chunks::<{ 4 * $size }>().0 {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a chunk has four vectors; the loads have no alignment.
                    *sum = $add(*sum, unsafe { $load(line.as_ptr().add(i * $size).cast()) });
                }
            }
            black_box(sums);
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Adds, CHAINS, Loops, Tier, black_box};
    use gossamer_core::isa::{Amx, Avx2, Avx512, Avx512Vnni, AvxVnni};
    use std::arch::asm;
    use std::arch::x86_64::*;

    chains!(
        #[target_feature(enable = "sse2")]
        fma_scalar,
        _mm_set1_ps(1.0),
        |sum| _mm_add_ps(_mm_mul_ps(*sum, _mm_set1_ps(0.999)), _mm_set1_ps(0.001))
    );
    // Where a tier has no dot product, what is multiplied is the sum itself: a constant product would be hoisted.
    chains!(
        #[target_feature(enable = "sse2")]
        dot_scalar,
        _mm_set1_epi16(3),
        |sum| _mm_add_epi32(*sum, _mm_madd_epi16(*sum, *sum))
    );
    chains!(
        #[target_feature(enable = "avx2,fma")]
        fma_256,
        _mm256_set1_ps(1.0),
        |sum| _mm256_fmadd_ps(*sum, _mm256_set1_ps(0.999), _mm256_set1_ps(0.001))
    );
    chains!(
        #[target_feature(enable = "avx2")]
        dot_avx2,
        _mm256_set1_epi16(3),
        |sum| {
            // Weights small enough that two products of pairs may be added in 16 bits.
            let pairs = _mm256_maddubs_epi16(*sum, _mm256_set1_epi8(5));
            let pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*sum, _mm256_set1_epi8(7)));
            _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    );
    chains!(
        #[target_feature(enable = "avx2,avxvnni")]
        dot_avxvnni,
        _mm256_set1_epi8(3),
        |sum| _mm256_dpbusd_avx_epi32(*sum, _mm256_set1_epi8(5), _mm256_set1_epi8(7))
    );
    chains!(
        #[target_feature(enable = "avx512f")]
        fma_512,
        _mm512_set1_ps(1.0),
        |sum| _mm512_fmadd_ps(*sum, _mm512_set1_ps(0.999), _mm512_set1_ps(0.001))
    );
    chains!(
        #[target_feature(enable = "avx512f,avx512bw")]
        dot_512,
        _mm512_set1_epi16(3),
        |sum| {
            let pairs = _mm512_maddubs_epi16(*sum, _mm512_set1_epi8(5));
            let pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(*sum, _mm512_set1_epi8(7)));
            _mm512_add_epi32(*sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    );
    chains!(
        #[target_feature(enable = "avx512f,avx512vnni")]
        dot_avx512vnni,
        _mm512_set1_epi8(3),
        |sum| _mm512_dpbusd_epi32(*sum, _mm512_set1_epi8(5), _mm512_set1_epi8(7))
    );
    /// [`CHAINS`] products of whole tiles a round, on six sums; what the tiles hold does not matter.
    ///
    /// # Safety
    /// The process may use tiles.
    unsafe fn dot_amx(rounds: usize) {
        #[repr(C, align(64))]
        struct Shapes([u8; 16], [u16; 16], [u8; 16]);
        let mut shapes = Shapes([0; 16], [0; 16], [0; 16]);
        shapes.0[0] = 1;
        shapes.1[..8].fill(64);
        shapes.2[..8].fill(16);
        // SAFETY: the caller's; registers only, but for the shapes.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "2:",
                "tdpbsud tmm0, tmm6, tmm7", "tdpbsud tmm1, tmm6, tmm7", "tdpbsud tmm2, tmm6, tmm7",
                "tdpbsud tmm3, tmm6, tmm7", "tdpbsud tmm4, tmm6, tmm7", "tdpbsud tmm5, tmm6, tmm7",
                "tdpbsud tmm0, tmm6, tmm7", "tdpbsud tmm1, tmm6, tmm7", "tdpbsud tmm2, tmm6, tmm7",
                "tdpbsud tmm3, tmm6, tmm7", "tdpbsud tmm4, tmm6, tmm7", "tdpbsud tmm5, tmm6, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                shapes = in(reg) &raw const shapes,
                rounds = inout(reg) rounds => _,
                options(nostack, readonly),
            );
        }
    }
    reads!(
        #[target_feature(enable = "sse2")]
        read_128,
        16,
        _mm_setzero_si128(),
        _mm_loadu_si128,
        _mm_or_si128
    );
    reads!(
        #[target_feature(enable = "avx2")]
        read_256,
        32,
        _mm256_setzero_si256(),
        _mm256_loadu_si256,
        _mm256_or_si256
    );
    reads!(
        #[target_feature(enable = "avx512f")]
        read_512,
        64,
        _mm512_setzero_si512(),
        _mm512_loadu_si512,
        _mm512_or_si512
    );

    const AVX2: fn() -> Option<Loops> = || {
        Avx2::detect().map(|_| Loops {
            // SAFETY: the token stands for the features, here and below.
            fma: Adds { run: |n| unsafe { fma_256(n) }, macs: 8 },
            // SAFETY: as above.
            dot: Adds { run: |n| unsafe { dot_avx2(n) }, macs: 64 },
            // SAFETY: as above.
            read: |from| unsafe { read_256(from) },
        })
    };
    const AVX512: fn() -> Option<Loops> = || {
        Avx512::detect().map(|_| Loops {
            // SAFETY: the token stands for the features, here and below.
            fma: Adds { run: |n| unsafe { fma_512(n) }, macs: 16 },
            // SAFETY: as above.
            dot: Adds { run: |n| unsafe { dot_512(n) }, macs: 128 },
            // SAFETY: as above.
            read: |from| unsafe { read_512(from) },
        })
    };

    pub(super) fn loops(tier: Tier) -> Option<Loops> {
        match tier {
            Tier::Avx2 => AVX2(),
            Tier::AvxVnni => AvxVnni::detect().zip(AVX2()).map(|(_, loops)| {
                // SAFETY: the token stands for the features.
                Loops { dot: Adds { run: |n| unsafe { dot_avxvnni(n) }, macs: 32 }, ..loops }
            }),
            Tier::Avx512 => AVX512(),
            Tier::Avx512Vnni => Avx512Vnni::detect().zip(AVX512()).map(|(_, loops)| {
                // SAFETY: the token stands for the features.
                Loops { dot: Adds { run: |n| unsafe { dot_avx512vnni(n) }, macs: 64 }, ..loops }
            }),
            Tier::Amx => Amx::detect().zip(AVX512()).map(|(_, loops)| {
                // SAFETY: the token stands for the permission.
                Loops { dot: Adds { run: |n| unsafe { dot_amx(n) }, macs: 16 * 16 * 64 }, ..loops }
            }),
            _ => Some(Loops {
                // SAFETY: every x86-64 processor has SSE2, here and below.
                fma: Adds { run: |n| unsafe { fma_scalar(n) }, macs: 4 },
                // SAFETY: as above.
                dot: Adds { run: |n| unsafe { dot_scalar(n) }, macs: 8 },
                // SAFETY: as above.
                read: |from| unsafe { read_128(from) },
            }),
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Adds, CHAINS, Loops, Tier, black_box};
    use gossamer_core::isa::DotProd;
    use std::arch::aarch64::*;

    chains!(
        #[target_feature(enable = "neon")]
        fma,
        vdupq_n_f32(1.0),
        |sum| vfmaq_f32(vdupq_n_f32(0.001), *sum, vdupq_n_f32(0.999))
    );
    // What is multiplied is the sum itself: a constant product would be hoisted.
    chains!(
        #[target_feature(enable = "neon")]
        dot_neon,
        vdupq_n_s32(3),
        |sum| {
            let bytes = vget_low_s8(vreinterpretq_s8_s32(*sum));
            vpadalq_s16(*sum, vmull_s8(bytes, bytes))
        }
    );
    chains!(
        #[target_feature(enable = "neon,dotprod")]
        dot,
        vdupq_n_s32(3),
        |sum| {
            let mut c = *sum;
            // SAFETY: the instruction of the feature this function is compiled with; registers only.
            unsafe {
                std::arch::asm!("sdot {c:v}.4s, {x:v}.16b, {x:v}.16b", c = inout(vreg) c, x = in(vreg) vdupq_n_s8(5),
                options(pure, nomem, nostack, preserves_flags));
            }
            c
        }
    );
    reads!(
        #[target_feature(enable = "neon")]
        read,
        16,
        vdupq_n_u8(0),
        vld1q_u8,
        vorrq_u8
    );

    pub(super) fn loops(tier: Tier) -> Option<Loops> {
        // Every AArch64 core that runs Rust's standard library has NEON: the scalar tier is compiled with it.
        let neon = Loops {
            // SAFETY: as was just said, here and below.
            fma: Adds { run: |n| unsafe { fma(n) }, macs: 4 },
            // SAFETY: as above.
            dot: Adds { run: |n| unsafe { dot_neon(n) }, macs: 8 },
            // SAFETY: as above.
            read: |from| unsafe { read(from) },
        };
        if tier < Tier::DotProd {
            return Some(neon);
        }
        DotProd::detect().map(|_| {
            // SAFETY: the token stands for the features.
            Loops { dot: Adds { run: |n| unsafe { dot(n) }, macs: 16 }, ..neon }
        })
    }
}

impl Loops {
    fn of(tier: Tier) -> Loops {
        #[cfg(target_arch = "x86_64")]
        let found = x86::loops(tier);
        #[cfg(target_arch = "aarch64")]
        let found = arm::loops(tier);
        found.expect("a kernel of the tier was found, so the processor has it")
    }

    fn add(&self, work: Work) -> Adds {
        if work.int8 { self.dot } else { self.fma }
    }
}
