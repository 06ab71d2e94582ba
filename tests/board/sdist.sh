#!/usr/bin/env bash
# What the sdist holds: sources that compile by themselves, and every Python file. The wheel is not built from it again, which
# would be the same compilation in another folder, minutes long.
# usage: sdist.sh DIST        (DIST holds one sdist of gossamer)
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

tar -xzf "$1"/gossamer-*.tar.gz -C "$scratch" --strip-components=1
# Caches, of tools that may be at work beside this, are no sources.
diff -r --exclude='*.so' --exclude=__pycache__ --exclude='.*' python "$scratch/python"
cargo check --quiet --locked --manifest-path "$scratch/Cargo.toml" --target-dir target
