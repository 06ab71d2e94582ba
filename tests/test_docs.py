"""What the documents say is so: their examples run, their links and commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

import gossamer

ROOT = Path(__file__).parent.parent
PAPERS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benches/*.md")]
EXAMPLES = sorted(ROOT.glob("docs/examples/*.py"))


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", EXAMPLES, ids=ids(EXAMPLES))
def test_examples_run(path, tmp_path):
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def python_blocks(path):
    """The Python of a page, a block a string."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


WITH_PYTHON = [path for path in PAPERS if python_blocks(path)]


@pytest.mark.parametrize("path", WITH_PYTHON, ids=ids(WITH_PYTHON))
def test_python_of_a_page_runs_from_top_to_bottom(path, tmp_path):
    code = "\n".join(python_blocks(path))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_python():
    assert ROOT / "README.md" in WITH_PYTHON


@pytest.mark.parametrize("path", PAPERS, ids=ids(PAPERS))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("https:", "mailto:")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", PAPERS, ids=ids(PAPERS))
def test_make_commands_exist(path):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in re.findall(r"`make ([a-z0-9-]+)|^make ([a-z0-9-]+)", path.read_text(), re.MULTILINE):
        assert "".join(command) in targets, f"{path.name} says `make {''.join(command)}`"


@pytest.mark.parametrize("path", PAPERS, ids=ids(PAPERS))
def test_paths_in_backticks_exist(path):
    roots = r"(?:rust|python|tests|benches|docs|\.ci)/"
    for target in re.findall(rf"`({roots}[\w./-]+)`", path.read_text()):
        assert (ROOT / target).exists(), f"{path.name} speaks of {target}"


def test_the_tree_of_contributing_is_this_one():
    tree = re.search(r"^```text\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    named = [line.split()[0] for line in tree[1].splitlines() if line.strip()]
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), f"CONTRIBUTING.md lists {name}"


def test_the_changelog_has_this_version():
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert gossamer.__version__ == version
    assert re.search(rf"^## \[?({re.escape(version)}|Unreleased)\]?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_page_of_operators_is_what_its_command_prints():
    command = [sys.executable, "-m", "gossamer.lower"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    page = ROOT / "docs" / "operators.md"
    assert page.read_text() == done.stdout, f"python -m gossamer.lower > {page.relative_to(ROOT)}"
