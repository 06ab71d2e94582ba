"""What a measurement must say about the machine it was taken on."""

import platform
from pathlib import Path

from gossamer import _core

_CPU0 = Path("/sys/devices/system/cpu/cpu0")
_THERMAL = Path("/sys/class/thermal")


def _read(path: Path) -> str | None:
    """The text of a file of /proc or /sys, or None where this machine does not tell."""
    try:
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def cpu_name() -> str:
    """The processor's name; on an ARM board, which names no processor, the board's."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return " ".join(line.split(":", 1)[1].split())
    return _read(Path("/proc/device-tree/model")) or platform.processor() or platform.machine()


def governor() -> str | None:
    """What sets the clock, for example `performance` or `ondemand`; None where the machine does not tell."""
    return _read(_CPU0 / "cpufreq" / "scaling_governor")


def temperature() -> float | None:
    """The hottest thermal zone in degrees Celsius; None where there is none."""
    degrees = []
    for zone in sorted(_THERMAL.glob("thermal_zone*/temp")):
        text = _read(zone)
        if text and text.lstrip("-").isdigit():
            degrees.append(int(text) / 1000)
    return max(degrees, default=None)


def cores() -> int:
    """The cores this process may use: affinity and cgroup quota are heeded."""
    return _core.cpu()["threads"]


def peak_rss() -> int:
    """The most memory, in bytes, that this process has had resident."""
    # Not getrusage: its maximum survives exec, so a child would report the size of the parent that started it.
    for line in (_read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def describe() -> dict[str, str | int | float | None]:
    """The machine as a row of a benchmark record."""
    return {
        "cpu": cpu_name(),
        "arch": platform.machine(),
        "cores": cores(),
        "governor": governor(),
        "temperature_c": temperature(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gossamer": _core.__version__,
    }
