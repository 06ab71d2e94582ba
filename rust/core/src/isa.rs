//! Which instruction sets this processor has, and the proof a kernel needs before it may run.
//!
//! A [`Tier`] names a rung of the ladder kernels are written for. A tier's *token* ([`Avx2`], [`Avx512`], …) exists only
//! where detection found every feature of that rung, so a function that holds one may call code compiled for it.

#![allow(unsafe_code, reason = "tile instructions are detected by asking the processor and the kernel")]

use crate::error::{Error, Result, ensure};

/// A rung of the instruction-set ladder, lowest first. A kernel of a tier needs that tier's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Portable Rust, on every processor.
    Scalar,
    /// x86: AVX2, FMA and F16C.
    Avx2,
    /// x86: AVX-VNNI, the 256-bit `vpdpbusd`, on top of AVX2.
    AvxVnni,
    /// x86: AVX-512 F, BW, VL, DQ and CD.
    Avx512,
    /// x86: AVX-512 VNNI and VBMI on top of that.
    Avx512Vnni,
    /// x86: AMX, tiles of int8 multiplied as matrices, on top of that.
    Amx,
    /// ARM: Advanced SIMD.
    Neon,
    /// ARM: `sdot`, four-way int8 dot products.
    DotProd,
    /// ARM: `smmla`, int8 matrix products.
    I8mm,
}

impl Tier {
    /// Every tier, lowest first.
    pub const ALL: [Tier; 9] = [
        Tier::Scalar,
        Tier::Avx2,
        Tier::AvxVnni,
        Tier::Avx512,
        Tier::Avx512Vnni,
        Tier::Amx,
        Tier::Neon,
        Tier::DotProd,
        Tier::I8mm,
    ];

    /// The name users know the tier by.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Scalar => "scalar",
            Tier::Avx2 => "avx2",
            Tier::AvxVnni => "avxvnni",
            Tier::Avx512 => "avx512",
            Tier::Avx512Vnni => "avx512vnni",
            Tier::Amx => "amx",
            Tier::Neon => "neon",
            Tier::DotProd => "dotprod",
            Tier::I8mm => "i8mm",
        }
    }

    /// The tier of that name.
    ///
    /// # Errors
    /// [`Error::Isa`] where no tier has the name.
    pub fn parse(name: &str) -> Result<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name).ok_or_else(|| {
            let names: Vec<_> = Tier::ALL.iter().map(|tier| tier.name()).collect();
            Error::Isa(format!("isa {name:?}: expected one of {}", names.join(", ")))
        })
    }

    /// Whether this processor has every feature of the tier.
    pub fn is_available(self) -> bool {
        match self {
            Tier::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni => AvxVnni::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => Avx512Vnni::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => Amx::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => Neon::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Tier::DotProd => DotProd::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Tier::I8mm => I8mm::detect().is_some(),
            #[allow(unreachable_patterns, reason = "the tiers of other architectures")]
            _ => false,
        }
    }

    /// The tiers of this processor, lowest first.
    pub fn available() -> Vec<Tier> {
        Tier::ALL.into_iter().filter(|tier| tier.is_available()).collect()
    }

    /// The highest tier to use: `asked`, else the one `GOSSAMER_ISA` names, else the best this processor has.
    ///
    /// # Errors
    /// [`Error::Isa`] where the name is no tier, or the processor lacks it.
    pub fn choose(asked: Option<&str>) -> Result<Tier> {
        let from_env = std::env::var("GOSSAMER_ISA").ok().filter(|name| !name.is_empty());
        let best = Tier::available().pop().unwrap_or(Tier::Scalar);
        let Some(name) = asked.map(str::to_owned).or(from_env) else { return Ok(best) };
        let tier = Tier::parse(&name)?;
        let names: Vec<_> = Tier::available().iter().map(|tier| tier.name()).collect();
        ensure!(
            tier.is_available(),
            Isa,
            "isa {name:?}: this processor does not have it; it has {}",
            names.join(", ")
        );
        Ok(tier)
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Who made a processor. A [`Tier`] says what runs on it; what that costs differs between makers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// AMD.
    Amd,
    /// Any other.
    Other,
}

impl Maker {
    /// The maker of this processor, asked for once: the instruction is slow under a hypervisor.
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Maker {
        use std::arch::x86_64::__cpuid;
        use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
        // As in `Amx::detect`.
        static FOUND: AtomicU8 = AtomicU8::new(0);
        let mut found = FOUND.load(Relaxed);
        if found == 0 {
            #[allow(unused_unsafe, reason = "newer compilers know the instruction to be safe")]
            // SAFETY: every x86-64 processor has leaf 0.
            let leaf = unsafe { __cpuid(0) };
            let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
            found = if name.as_flattened() == b"AuthenticAMD" { 1 } else { 2 };
            FOUND.store(found, Relaxed);
        }
        if found == 1 { Maker::Amd } else { Maker::Other }
    }

    /// The maker of this processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Maker {
        Maker::Other
    }
}

/// Defines a token whose only constructor is detection.
macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $arch:literal, $detect:ident, [$($feature:tt),+]) => {
        $(#[$doc])*
        #[cfg(target_arch = $arch)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name(());

        #[cfg(target_arch = $arch)]
        impl $name {
            /// The token, where the processor has every feature it stands for.
            pub fn detect() -> Option<$name> {
                ($(std::arch::$detect!($feature))&&+).then_some($name(()))
            }
        }
    };
}

token!(
    /// Proof of `avx2,fma,f16c`.
    Avx2, "x86_64", is_x86_feature_detected, ["avx2", "fma", "f16c"]
);
token!(
    /// Proof of `avx2,fma,f16c,avxvnni`.
    AvxVnni, "x86_64", is_x86_feature_detected, ["avx2", "fma", "f16c", "avxvnni"]
);
token!(
    /// Proof of `avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c`.
    Avx512, "x86_64", is_x86_feature_detected,
    ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx2", "fma", "f16c"]
);
token!(
    /// Proof of what [`Avx512`] proves and `avx512vnni,avx512vbmi`.
    Avx512Vnni, "x86_64", is_x86_feature_detected,
    ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx2", "fma", "f16c", "avx512vnni", "avx512vbmi"]
);
/// Proof of what [`Avx512Vnni`] proves, of `amx-tile,amx-int8`, and that this process may use tiles.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

#[cfg(target_arch = "x86_64")]
impl Amx {
    /// The token, where the processor has the features and the kernel lets this process use them.
    ///
    /// It asks the kernel, once: from then on signal handlers that run on stacks of their own need stacks that hold the
    /// state of the tiles, of which the kernel and the C library tell the size.
    pub fn detect() -> Option<Amx> {
        use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
        // 0 is not known yet. Threads that ask at the same time all find the same, and none waits for another: a process
        // may be forked at any moment.
        static FOUND: AtomicU8 = AtomicU8::new(0);
        let mut found = FOUND.load(Relaxed);
        if found == 0 {
            found = if Avx512Vnni::detect().is_some() && amx_is_usable() { 1 } else { 2 };
            FOUND.store(found, Relaxed);
        }
        (found == 1).then_some(Amx(()))
    }
}

/// Whether the processor has AMX for int8, and Linux gives it to this process and all threads and children it will have.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_is_usable() -> bool {
    use std::arch::{asm, x86_64::__cpuid_count};
    /// `amx-tile` and `amx-int8` in EDX of leaf 7.
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    /// The state of tiles and of their configuration, which the system has to save, in XCR0.
    const STATE: u32 = 1 << 17 | 1 << 18;
    /// The system call `arch_prctl`, its code `ARCH_REQ_XCOMP_PERM`, and the component that is asked for.
    const ARCH_PRCTL: usize = 158;
    const REQUEST: usize = 0x1023;
    const TILE_DATA: usize = 18;
    #[allow(unused_unsafe, reason = "newer compilers know the instruction to be safe")]
    // SAFETY: whoever has AVX-512 has leaf 7.
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    if features & FEATURES != FEATURES {
        return false;
    }
    let (state, refused): (u32, isize);
    // SAFETY: `xgetbv` of register 0 is what AVX-512 is detected by; the system call grants or refuses, and touches nothing
    // but rax, rcx and r11.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack, preserves_flags));
        asm!("syscall", inout("rax") ARCH_PRCTL as isize => refused, in("rdi") REQUEST, in("rsi") TILE_DATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    state & STATE == STATE && refused == 0
}

/// Other systems' ways of asking are not known here.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_is_usable() -> bool {
    false
}

token!(
    /// Proof of `neon`.
    Neon, "aarch64", is_aarch64_feature_detected, ["neon"]
);
token!(
    /// Proof of `neon,dotprod`.
    DotProd, "aarch64", is_aarch64_feature_detected, ["neon", "dotprod"]
);
token!(
    /// Proof of `neon,dotprod,i8mm`.
    I8mm, "aarch64", is_aarch64_feature_detected, ["neon", "dotprod", "i8mm"]
);
