#!/usr/bin/env bash
# gossamer on ARM without a board: builds for aarch64, runs the Rust tests on three emulated cores, of kernels those of the
# tier that a core stands for, then runs files converted on this machine with the aarch64 extension and numpy alone.
# usage: run.sh DIR PYTHON        (PYTHON has gossamer and torch; DIR keeps the tools and the build)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh" "$1"
dir=$(cd "$1" && pwd) python=$2
cd "$here/../../.."

# The tiers each core must have, and those whose kernels are tested there: no tier twice, since the code is the same.
cores=(cortex-a53 cortex-a76 max)
declare -A tiers=([cortex-a53]='scalar neon' [cortex-a76]='scalar neon dotprod' [max]='scalar neon dotprod i8mm')
declare -A tested=([cortex-a53]='scalar,neon' [cortex-a76]='dotprod' [max]='i8mm')

target=aarch64-unknown-linux-gnu
# Debian's rustc, not the toolchain of the rest of the build: its own target folder keeps the two apart.
export RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=$dir/target
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Emulation is some twenty times slower than the machine; fewer random cases a property keep it to minutes.
export PROPTEST_CASES=${PROPTEST_CASES:-8}

for cpu in "${cores[@]}"; do
  echo "== Rust tests on $cpu, of kernels: ${tested[$cpu]}"
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu" GOSSAMER_REQUIRE_ISA=${tested[$cpu]} \
    cargo test --quiet -p gossamer-core --target $target --lib
done

# As maturin does: an extension of the stable ABI links against no interpreter.
PYO3_BUILD_EXTENSION_MODULE=1 cargo build --quiet --release -p gossamer-py --target $target
rm -rf "$dir/site/gossamer"
cp -r python/gossamer "$dir/site/gossamer"
rm -f "$dir"/site/gossamer/*.so
cp "$CARGO_TARGET_DIR/$target/release/lib_core.so" "$dir/site/gossamer/_core.abi3.so"
"$python" "$here/../make_cases.py" "$dir/cases"
for cpu in "${cores[@]}"; do
  echo "== files made on this machine, on $cpu"
  # shellcheck disable=SC2086 # a list of words
  "$here/python" "$dir" $cpu "$here/../run_cases.py" "$dir/cases" ${tiers[$cpu]}
done
