#!/usr/bin/env bash
# Makes an aarch64 test bench on x86-64 Debian: a cross compiler with Rust's aarch64 standard library, qemu-user, and an
# aarch64 CPython with numpy that qemu-user runs without a chroot.
# usage: setup.sh DIR        (root, where a package is missing; seconds once everything is there)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
root=$dir/root

# rustc-web is Debian's current rustc. Where rustup can fetch targets, `rustup target add` would do as well.
packages=(rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
python_packages=(libc6 libgcc-s1 libstdc++6 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3.11
  libexpat1 zlib1g libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1 libsqlite3-0 libncursesw6 libtinfo6 libreadline8)

if ! dpkg -s "${packages[@]}" >/dev/null 2>&1 || [[ ! -x $root/usr/bin/python3.11 ]]; then
  dpkg --add-architecture arm64
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
if [[ ! -x $root/usr/bin/python3.11 ]]; then
  mkdir -p "$dir/debs" "$root"
  (cd "$dir/debs" && apt-get download -qq "${python_packages[@]/%/:arm64}" 2>/dev/null)
  for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  # qemu-user opens a path under the root first: numpy's thread pool asks how many processors there are.
  mkdir -p "$root/proc" "$root/sys/devices/system/cpu"
  for list in possible present online; do echo 0 >"$root/sys/devices/system/cpu/$list"; done
fi
if [[ ! -d $dir/site/numpy ]]; then
  python3 -m pip download -q --no-deps --python-version 3.11 --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    -d "$dir/wheels" numpy
  mkdir -p "$dir/site"
  for wheel in "$dir"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$dir/site"; done
fi
"$here/python" "$dir" cortex-a76 -c 'import platform, numpy; print(platform.machine(), "numpy", numpy.__version__)'
