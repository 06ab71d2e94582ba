#!/usr/bin/env bash
# gossamer on x86 processors that this machine is not: runs the Rust tests on three emulated ones, of kernels those of the tier
# that each stands for. AMX is not among them: Bochs' tiles do not multiply signed bytes right.
# usage: run.sh DIR [arguments of the test program]        (DIR keeps the emulator)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh" "$1"
dir=$(cd "$1" && pwd)
shift
cd "$here/../../.."

models=(corei7_skylake_x corei7_icelake_u arrow_lake)
declare -A tested=([corei7_skylake_x]=avx512 [corei7_icelake_u]=avx512vnni [arrow_lake]=avxvnni)

# Emulation is a hundred times slower than the machine; fewer random cases a property keep it to minutes.
export PROPTEST_CASES=${PROPTEST_CASES:-8}
for model in "${models[@]}"; do
  echo "== Rust tests on $model, of kernels: ${tested[$model]}"
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$here/bochs.py $dir $model" GOSSAMER_REQUIRE_ISA=${tested[$model]} \
    cargo test --quiet -p gossamer-core --lib -- "$@"
done
