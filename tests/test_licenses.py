"""What is linked into the wheel may be: every crate has a licence that Apache-2.0 software can carry."""

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALLOWED = {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0", "Unlicense", "0BSD"}


def linked() -> dict[str, str]:
    """The licence of every crate that the extension links or expands, by name and version."""
    command = ["cargo", "metadata", "--format-version=1", "--locked"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    left = [id_ for id_ in told["workspace_members"] if packages[id_]["name"] == "gossamer-py"]
    seen: set[str] = set()
    while left:
        id_ = left.pop()
        if id_ not in seen:
            seen.add(id_)
            left += [d["pkg"] for d in nodes[id_]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
    return {f"{packages[id_]['name']} {packages[id_]['version']}": packages[id_]["license"] or "none" for id_ in seen}


def acceptable(expression: str) -> bool:
    """Whether an SPDX expression can be met: one side of an OR, both of an AND."""
    inner = re.sub(r"\(([^()]*)\)", lambda group: "MIT" if acceptable(group[1]) else "none", expression)
    if inner != expression:
        return acceptable(inner)
    options = re.split(r" OR |/", expression)
    return any(all(part.split(" WITH ")[0] in ALLOWED for part in option.split(" AND ")) for option in options)


def test_licences_of_what_is_linked():
    found = linked()
    assert len(found) > 10
    refused = {name: licence for name, licence in found.items() if not acceptable(licence)}
    assert not refused


def test_expressions():
    assert acceptable("MIT OR GPL-3.0-only")
    assert acceptable("(MIT OR GPL-3.0-only) AND Unicode-3.0")
    assert acceptable("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only")
    assert not acceptable("GPL-3.0-only")
    assert not acceptable("MIT AND GPL-3.0-only")
    assert not acceptable("none")
