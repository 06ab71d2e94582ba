"""The benchmark of accuracy at a small size: it runs, goes on where it was killed, and refuses what is not its data."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parent.parent / "benches" / "accuracy"
FORMS = ["dense", "unstructured", "unstructured int8", "balanced", "4x1"]


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten classes of noise over a pattern of their own, the same in the mirror."""
    folder = tmp_path_factory.mktemp("fashion")
    rng = np.random.default_rng(0)
    half = rng.integers(0, 2, (10, 7, 4)) * 150
    patterns = np.concatenate([half, half[:, :, 2::-1]], 2).repeat(4, 1).repeat(4, 2)
    for part, count in (("train", 1280), ("t10k", 320)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = patterns[labels] + rng.integers(0, 100, (count, 28, 28))
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images.astype(np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


def run(data, out, *more):
    command = [sys.executable, BENCH / "run.py", "--smoke", "--seeds", "3", "--data", data, "--out", out, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def result(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    done = run(data, out)
    assert done.returncode == 0, done.stderr
    return out / "smoke", done


def test_every_form_is_judged_and_in_the_table(result):
    folder, done = result
    rows = json.loads((folder / "results.json").read_text())
    assert [row["form"] for row in rows] == FORMS
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]] == FORMS
    dense = rows[0]
    assert dense["accuracy"] > 0.3, "chance is 0.1"
    for row in rows:
        assert row["differ"] <= 3, "gossamer and torch see the same"
        assert row["bytes"] == (folder / "seed-3" / f"{row['form'].replace(' ', '-')}.goss").stat().st_size
        assert row["ms"] > 0
    for row in rows[1:]:
        assert 0.85 < row["zeros"] < 0.92
        assert row["bytes"] < 0.4 * dense["bytes"]


def test_a_run_goes_on_from_what_is_kept(result, data):
    folder, done = result
    kept = {path: torch.load(path, weights_only=True)["net"] for path in (folder / "seed-3").glob("*.pt")}
    assert len(kept) == 4
    (folder / "seed-3" / "balanced.pt").unlink()
    (folder / "seed-3" / "balanced.json").unlink()
    again = run(data, folder.parent)
    assert again.returncode == 0, again.stderr
    trained = {line.split(":")[1].strip() for line in again.stderr.splitlines() if line.startswith("seed")}
    assert trained == {"balanced"}
    for path, old in kept.items():
        new = torch.load(path, weights_only=True)["net"]
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert again.stdout.split("| balanced |")[1].split("|")[1] == done.stdout.split("| balanced |")[1].split("|")[1]


def test_results_of_other_settings_are_not_mixed_in(result, data):
    done = run(data, result[0].parent, "--epochs", "1")
    assert done.returncode != 0
    assert "other settings" in done.stderr


def test_training_that_was_killed_ends_as_if_it_was_not(data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import fashion
    import train

    images = fashion.load(data, "train").first(256)
    recipe = train.Recipe(epochs=3, rate=0.1, warm=0.3, narrow=False)

    def network():
        torch.manual_seed(0)
        return train.vgg((4, 4, 4), 8)

    def kill(done, loss):
        if done == 5:
            raise KeyboardInterrupt

    whole, killed = network(), network()
    train.train(whole, images, recipe, 7, tmp_path / "whole.pt", lambda done, loss: None)
    with pytest.raises(KeyboardInterrupt):
        train.train(killed, images, recipe, 7, tmp_path / "killed.pt", kill)
    going_on, steps = network(), []
    train.train(going_on, images, recipe, 7, tmp_path / "killed.pt", lambda done, loss: steps.append(done))
    assert steps == [5, 6]
    for one, other in zip(whole.state_dict().values(), going_on.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08\x01\0\0\0\x05abc", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", b"\0\0\x08\x03\0\0"],
    ids=["empty", "short", "floats", "no header"],
)
def test_what_is_no_idx_file_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import fashion

    path = tmp_path / "bad.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"bad\.gz"):
        fashion.read_idx(path)


def test_missing_data_is_named(tmp_path):
    done = run(tmp_path / "nowhere", tmp_path)
    assert done.returncode != 0
    assert "train-images-idx3-ubyte.gz" in done.stderr
