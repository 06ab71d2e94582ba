#!/usr/bin/env python3
"""Runs an x86-64 Linux program on an emulated processor, with its output and its exit code.

usage: bochs.py DIR MODEL PROGRAM [ARGUMENTS]

DIR is what setup.sh made. MODEL is a processor of Bochs, such as corei7_skylake_x (AVX-512), corei7_icelake_u (VNNI and
VBMI too) or arrow_lake (AVX-VNNI, no AVX-512); `DIR/bochs -help cpu` lists them. Beside the kernel and a shell, the
program is all that runs there; variables named GOSSAMER_* and PROPTEST_* are passed on.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
cd /tmp
echo @@@START
{command} 2>&1 </dev/null
echo @@@EXIT $?
sleep 1000000
"""

ISOLINUX = """DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0,115200 quiet rdinit=/init mitigations=off nopti nokaslr tsc=reliable {options}
"""

# Bochs' MISC_ENABLE reads 0, so Linux drops fast `rep movsb` (ERMS), keeps the short one (FSRM, bit 580), and has a
# memmove that does not end; five levels of page tables make Bochs panic.
OPTIONS = "clearcpuid=580 no5lvl"

# A virtual second has so many instructions: enough that nothing in the kernel times out.
BOCHS = """config_interface: textconfig
display_library: nogui
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={iso}, status=inserted
boot: cdrom
cpu: model={model}, ips=200000000, reset_on_triple_fault=0
clock: sync=none, time0=local
com1: enabled=1, mode=file, dev={serial}
log: {log}
panic: action=fatal
error: action=ignore
"""

# Booting takes some ten seconds.
BOOT_SECONDS = 300


def initrd(root, program, arguments):
    """Fills a folder with what boots: busybox, the program, its libraries."""
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    subprocess.run(["strip", "--strip-debug", "-o", root / "bin" / "program", program], check=True)
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for library in set(re.findall(r"(/\S+) \(0x", libraries)):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    if crate := os.environ.get("CARGO_MANIFEST_DIR"):
        # A test reads the sources of its crate.
        shutil.copytree(Path(crate) / "src", root / crate[1:] / "src")
    passed = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("GOSSAMER_", "PROPTEST_"))]
    (root / "init").write_text(INIT.format(command=shlex.join(["env", *passed, "/bin/program", *arguments])))
    (root / "init").chmod(0o755)


def boot_image(directory, work):
    """Makes the disk that boots."""
    iso = work / "iso"
    iso.mkdir()
    for path in (directory / "vmlinuz", Path("/usr/lib/ISOLINUX/isolinux.bin")):
        shutil.copy(path, iso)
    shutil.copy("/usr/lib/syslinux/modules/bios/ldlinux.c32", iso)
    (iso / "isolinux.cfg").write_text(ISOLINUX.format(options=OPTIONS))
    with open(iso / "initrd", "wb") as file:
        files = subprocess.run(["find", "."], cwd=work / "root", capture_output=True, check=True).stdout
        cpio = ["/bin/busybox", "cpio", "-o", "-H", "newc"]
        subprocess.run(cpio, cwd=work / "root", input=files, stdout=file, stderr=subprocess.DEVNULL, check=True)
    xorriso = "xorriso -as mkisofs -quiet -o boot.iso -b isolinux.bin -c boot.cat"
    xorriso += " -no-emul-boot -boot-load-size 4 -boot-info-table iso"
    subprocess.run(xorriso.split(), cwd=work, stderr=subprocess.DEVNULL, check=True)
    return work / "boot.iso"


def follow(serial, emulator):
    """Prints what the program prints; gives its exit code, or none if there comes none."""
    started, rest, booted_by = False, "", time.monotonic() + BOOT_SECONDS
    with open(serial, errors="replace", newline="") as lines:
        while True:
            ended = emulator.poll() is not None
            *whole, rest = (rest + lines.read().replace("\r", "")).split("\n")
            for line in whole:
                if ends := re.search(r"@@@EXIT (\d+)", line):
                    print(line[: ends.start()], end="", flush=True)
                    return int(ends[1])
                if started:
                    print(line, flush=True)
                started = started or "@@@START" in line
            if ended or (not started and time.monotonic() > booted_by):
                return None
            time.sleep(0.1)


def main():
    directory, model, program, *arguments = sys.argv[1:]
    directory = Path(directory).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        initrd(work / "root", program, arguments)
        iso, serial, log = boot_image(directory, work), work / "serial", work / "log"
        serial.touch()
        (work / "bochsrc").write_text(BOCHS.format(iso=iso, model=model, serial=serial, log=log))
        with open(work / "console", "wb") as console:
            emulator = subprocess.Popen(
                [directory / "bochs", "-q", "-f", work / "bochsrc"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        try:
            code = follow(serial, emulator)
        finally:
            emulator.kill()
            emulator.wait()
        if code is None:
            said = "".join(path.read_text(errors="replace") for path in (log, work / "console") if path.exists())
            lines = said.splitlines()
            why = "\n".join([line for line in lines if "PANIC" in line] or lines[-5:])
            sys.exit(f"bochs.py: the program did not start, or the emulator ended before it did. It says:\n{why}")
    sys.exit(code)


if __name__ == "__main__":
    main()
