"""Modules import only what lies below them, and running a model imports no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUST = ROOT / "rust" / "core" / "src"
PYTHON = ROOT / "python" / "gossamer"

# Lowest first. A board needs no more than RUNNING; what makes models is above it and may use all of it.
RUNNING = ["_core", "machine", "text", "runtime", "factory", "bench"]
MAKING = [
    "report",
    "ops",
    "ops_i8",
    "program",
    "steps",
    "quantized",
    "capture",
    "passes",
    "compress",
    "lower",
    "converter",
]
LAYERS = [*RUNNING, *MAKING, "__init__", "cli", "__main__"]


def rust_layers() -> list[str]:
    """The modules of the core in the order lib.rs lists them, which is the order in which they may use each other."""
    return re.findall(r"^pub mod (\w+);", (RUST / "lib.rs").read_text(), re.MULTILINE)


def rust_modules() -> dict[str, list[Path]]:
    """Every source file of the core by the module of lib.rs it belongs to."""
    found: dict[str, list[Path]] = {}
    for path in sorted(RUST.rglob("*.rs")):
        found.setdefault(path.relative_to(RUST).parts[0].removesuffix(".rs"), []).append(path)
    return found


def crate_paths(text: str) -> set[str]:
    """The first segments of `crate::…` paths in Rust code, `crate::{a::b, c}` included; comments do not count."""
    code = re.sub(r"//.*", "", text)
    names = set(re.findall(r"\bcrate::(\w+)", code))
    for group in re.findall(r"\bcrate::\{((?:[^{}]|\{[^{}]*\})*)\}", code):
        names |= set(re.findall(r"\w+", re.sub(r"::(\{[^{}]*\}|\w+|\*)", "", group)))
    return names


def test_every_module_of_the_core_has_a_place():
    assert set(rust_modules()) - {"lib", "testing"} == set(rust_layers())


@pytest.mark.parametrize("module", rust_layers())
def test_the_core_uses_only_what_is_above_it_in_lib_rs(module):
    layers = rust_layers()
    allowed = {*layers[: layers.index(module) + 1], "testing"}
    # What tests a module may use what is built on it.
    for path in (path for path in rust_modules()[module] if path.name != "tests.rs"):
        upward = (crate_paths(path.read_text()) & set(layers)) - allowed
        assert not upward, f"{path.relative_to(ROOT)} uses {', '.join(sorted(upward))}, which comes after `{module}`"


def python_modules() -> dict[str, list[Path]]:
    """Every source file of the package by its first name below `gossamer`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PYTHON.rglob("*.py")):
        found.setdefault(path.relative_to(PYTHON).parts[0].removesuffix(".py"), []).append(path)
    return found


def gossamer_imports(path: Path) -> set[str]:
    """The modules of `gossamer` that a file imports, at its top or inside functions, apart from type checking."""
    package = ("gossamer", *path.relative_to(PYTHON).with_suffix("").parts)[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found = [f"{source}.{alias.name}" for alias in node.names] if source == "gossamer" else [source]
        else:
            continue
        names |= {name.split(".")[1] for name in found if name.startswith("gossamer.")}
    return names


def test_every_module_of_the_package_has_a_place():
    assert set(python_modules()) <= set(LAYERS)


@pytest.mark.parametrize("module", python_modules())
def test_the_package_imports_only_what_is_below(module):
    allowed = {*LAYERS[: LAYERS.index(module) + 1]}
    for path in python_modules()[module]:
        upward = (gossamer_imports(path) & set(LAYERS)) - allowed
        assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}, which lies above `{module}`"


def test_running_a_model_imports_no_torch():
    modules = [f"gossamer.{name}" for name in RUNNING if (PYTHON / f"{name}.py").exists()]
    code = f"import sys, {', '.join([*modules, 'gossamer.cli'])}; print({{'torch', 'rich'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
