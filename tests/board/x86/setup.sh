#!/usr/bin/env bash
# Makes a test bench for x86 processors that this machine is not: the emulator Bochs, built from source, and a kernel for it
# to boot. qemu emulates nothing above AVX2, and Debian 12's own Bochs ends in a buffer overflow before it boots anything.
# usage: setup.sh DIR        (Debian 12, root; minutes the first time)
set -euo pipefail
mkdir -p "$1"
cd "$1"

packages=(busybox-static isolinux syslinux-common xorriso bochsbios vgabios g++ make xz-utils)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if [[ ! -e vmlinuz ]]; then
  apt-get update -qq
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2; exit }')
  apt-get download -qq "$kernel" 2>/dev/null
  dpkg -x "$kernel"_*.deb kernel
  cp kernel/boot/vmlinuz-* vmlinuz
  rm -rf kernel "$kernel"_*.deb
fi

if [[ ! -x bochs ]]; then
  # The next release's source, by lists of its own: the system's stay as they are.
  mkdir -p lists/partial cache/archives/partial source
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb-src [signed-by=$keys] http://deb.debian.org/debian trixie main" >sources.list
  apt=(apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd source && "${apt[@]}" source --tar-only --download-only bochs && tar --strip-components=1 -xf bochs_*.orig.tar.xz)
  (
    cd source
    ./configure --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-fpu --enable-pci \
      --enable-all-optimizations --enable-long-phy-address --enable-cdrom --disable-debugger --disable-docbook \
      --disable-plugins --disable-svm --disable-vmx --disable-gdb-stub --disable-ne2000 --disable-voodoo --with-nogui
    make --jobs="$(nproc)"
  ) >build.log 2>&1
  cp source/bochs bochs
  rm -rf source cache lists sources.list
fi
