#!/usr/bin/env bash
# gossamer on x86 processors that this machine is not: runs the Rust tests on three emulated ones, each of which must have
# the tiers it stands for. AMX is not among them: Bochs' tiles do not multiply signed bytes right.
# usage: run.sh DIR [arguments of the test program]        (DIR keeps the emulator)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh" "$1"
dir=$(cd "$1" && pwd)
shift
cd "$here/../../.."

models=(corei7_skylake_x corei7_icelake_u arrow_lake)
declare -A tiers=([corei7_skylake_x]='scalar avx2 avx512' [corei7_icelake_u]='scalar avx2 avx512 avx512vnni'
  [arrow_lake]='scalar avx2 avxvnni')

# Emulation is a hundred times slower than the machine; fewer random cases a property keep it to minutes.
export PROPTEST_CASES=${PROPTEST_CASES:-8}
for model in "${models[@]}"; do
  echo "== Rust tests on $model, which must have: ${tiers[$model]}"
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$here/bochs.py $dir $model" GOSSAMER_REQUIRE_ISA=${tiers[$model]// /,} \
    cargo test --quiet -p gossamer-core --lib -- "$@"
done
