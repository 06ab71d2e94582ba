#!/usr/bin/env bash
# What a board installs: one wheel, in a fresh environment that can reach numpy and nothing of ours; then files made by
# PYTHON (which has gossamer and torch) run there on every tier.
# usage: wheel.sh DIST PYTHON        (DIST holds one wheel of gossamer)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wheel=$(echo "$1"/gossamer-*.whl)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$2" "$here/make_cases.py" "$scratch/cases"
"$2" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet "$wheel"
installed=$("$scratch/venv/bin/pip" list --format=freeze --exclude pip --exclude setuptools | cut -d= -f1 | sort | paste -sd' ')
bytes=$(stat -c %s "$wheel")
echo "$(basename "$wheel"): $bytes bytes, installs $installed"
if [[ $installed != 'gossamer numpy' ]]; then
  echo "the wheel must require numpy alone" >&2
  exit 1
fi
if ((bytes > 3000000)); then
  echo "the wheel must be at most 3 MB" >&2
  exit 1
fi
cd "$scratch" # not the checkout: Python would import its sources
venv/bin/gossamer cpu
venv/bin/gossamer verify cases/dense.goss
venv/bin/python "$here/run_cases.py" cases
