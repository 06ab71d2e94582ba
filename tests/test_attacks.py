"""Hostile files: those that broke a promise once, every damage to a small one, and a few thousand mutations."""

import subprocess
import sys
from pathlib import Path

import pytest
from attacks import mutate

import gossamer
from gossamer import _core

ATTACKS = sorted(Path(mutate.__file__).parent.glob("*.goss"))


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path.stem)
def test_an_attack_of_old_is_answered_or_refused(path):
    # In a process of its own: what it did once may have ended the process.
    code = "import sys; from attacks.mutate import attempt; attempt(open(sys.argv[1], 'rb').read())"
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        cwd=path.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=mutate.WAIT,
    )
    assert done.returncode == 0, done.stderr


def test_every_op_is_mutated():
    headers = [mutate.taken(data)[0] for data in mutate.bases().values()]
    assert {node["op"] for header in headers for node in header["nodes"]} == set(_core.OPS)


@pytest.mark.parametrize("name", ["depthwise", "conv_sparse_int8", "low_rank"])
def test_every_changed_byte_and_every_truncation_is_refused(name):
    mutate.exhaust(mutate.bases()[name])


def test_a_file_sealed_anew_is_the_same_network():
    # Otherwise no mutation would get past the checksums.
    for name, data in mutate.bases().items():
        header, parts = mutate.taken(data)
        again = gossamer.load(mutate.sealed(header, parts))
        assert again.layers == gossamer.load(data).layers, name
        assert mutate.attempt(data), name


def test_mutations_with_right_checksums_break_no_promise():
    ran, found = mutate.watch(0, 4000)
    assert not found
    # Many are refused by name; enough get through to the kernels.
    assert ran > 200
