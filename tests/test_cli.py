"""The `gossamer` command, as a person types it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gossamer
from gossamer import _core, cli, compress

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(300, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

def make():
    torch.manual_seed(0)
    return Net(), (torch.randn(2, 300),)

def unsupported():
    class Fft(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real
    return Fft(), (torch.randn(2, 8),)

def nothing():
    return None

def fails():
    class Fails(nn.Module):
        def forward(self, x):
            return x @ torch.ones(3)
    return Fails(), (torch.randn(2, 8),)

def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a factory module, the file it converts to, a pruned twin and an input."""
    folder = tmp_path_factory.mktemp("cli")
    path = folder / "factory_of_tests.py"
    path.write_text(FACTORY)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    factory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(factory)
    module, example = factory.make()
    module.eval()
    gossamer.convert(module, example, folder / "net.goss")
    gossamer.convert(compress.prune(module, 0.9), example, folder / "pruned.goss")
    np.save(folder / "x.npy", example[0].numpy())
    np.save(folder / "wide.npy", np.zeros((2, 301), np.float32))
    with torch.no_grad():
        np.save(folder / "y.npy", module(*example).numpy())
    (folder / "garbage.goss").write_bytes(b"not a file of ours" * 10)
    (folder / "empty.npy").write_bytes(b"")
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:500])
    np.savez(folder / "x.npz", x=example[0].numpy())
    np.save(folder / "doubles.npy", example[0].numpy().astype(np.float64))
    (folder / "no_python.py").write_text("def (")
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def gossamer_command(capsys, *argv):
    """Runs the command in this process; what it printed."""
    code = cli.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused(capsys, *argv):
    """Runs a command that must fail; its one line of explanation."""
    code = cli.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert err.startswith(f"gossamer {argv[0]}: ")
    assert err.count("\n") == 1 or argv[0] == "convert"
    return err


def test_info(capsys):
    text = gossamer_command(capsys, "info", "net.goss")
    assert "float32[batch, 300]" in text
    record = json.loads(gossamer_command(capsys, "info", "net.goss", "--json"))
    assert record["file_bytes"] == os.path.getsize("net.goss")
    assert record["inputs"][0]["dtype"] == "float32"
    assert len(record["layers"]) >= 2


def test_info_tells_how_each_layer_is_stored(capsys):
    formats = [
        {layer.get("format") for layer in json.loads(gossamer_command(capsys, "info", file, "--json"))["layers"]}
        for file in ("net.goss", "pruned.goss")
    ]
    assert formats[0] != formats[1]


def test_run_writes_what_torch_answers(capsys, tmp_path):
    gossamer_command(capsys, "run", "net.goss", "--input", "x.npy", "--output", tmp_path / "y.npy")
    got, expected = np.load(tmp_path / "y.npy"), np.load("y.npy")
    np.testing.assert_allclose(got, expected, rtol=0, atol=2 * 302 * 2.0**-24 * np.abs(expected).max())
    gossamer_command(capsys, "run", "net.goss", "--input", "x.npy", "--output", tmp_path / "y.npz", "--threads", 2)
    (again,) = np.load(tmp_path / "y.npz").values()
    np.testing.assert_array_equal(again, got)


def test_bench_tells_the_machine_and_the_times(capsys):
    text = gossamer_command(capsys, "bench", "net.goss", "--seconds", "0.05", "--profile")
    for word in ("tier", "governor", "load ms", "first ms", "p50 ms", "p90 ms", "p99 ms", "peak RSS MB"):
        assert word in text


def test_a_result_is_written_where_it_was_asked_for(capsys, tmp_path):
    gossamer_command(capsys, "run", "net.goss", "--input", "x.npy", "--output", tmp_path / "answer")
    assert [path.name for path in tmp_path.iterdir()] == ["answer"]
    assert np.load(tmp_path / "answer").shape == (2, 10)


def test_bench_profile_as_json(capsys):
    argv = ("bench", "net.goss", "--seconds", "0.05", "--profile", "--json")
    (row,) = json.loads(gossamer_command(capsys, *argv))["results"]
    assert [step["op"] for step in row["profile"]["steps"]] == ["linear", "linear"]
    assert row["profile"]["seconds"] > 0


def test_bench_times_the_loading_of_the_file_alone(capsys):
    # Of a kilobyte, beside an engine whose import takes a second.
    argv = ("bench", "net.goss", "--seconds", "0.05", "--json", "--against", "torch=factory_of_tests:make")
    rows = json.loads(gossamer_command(capsys, *argv))["results"]
    assert all(0 < row["load_ms"] < 500 for row in rows), rows


@pytest.mark.parametrize("hot", [None, 61.5])
def test_bench_tells_temperatures_where_the_board_does(capsys, monkeypatch, hot):
    monkeypatch.setattr("gossamer.machine.temperature", lambda: hot)
    text = gossamer_command(capsys, "bench", "net.goss", "--seconds", "0.05")
    assert text.count("°C") == (2 if hot else 0)
    assert ("temperature not told" in text) == (hot is None)


def test_bench_json_has_a_row_a_thread_count_and_engine(capsys):
    argv = ("bench", "pruned.goss", "--threads", "1,2", "--seconds", "0.05", "--json", "--against")
    record = json.loads(gossamer_command(capsys, *argv, "dense,torch=factory_of_tests:make"))
    rows = record["results"]
    assert [(row["engine"], row["threads"]) for row in rows] == [
        (engine, threads) for threads in (1, 2) for engine in ("gossamer", "dense", "torch")
    ]
    for row in rows:
        assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["peak_rss_bytes"] > 10e6
        assert row["runs"] >= 10
    # `dense` computes the same network, `torch` the one from before pruning.
    assert rows[1]["difference"] < 1e-5 < rows[2]["difference"]
    assert record["machine"]["cpu"]


# What gossamer asks of onnxruntime, which the tests do not need: a session that answers zeros.
ONNXRUNTIME = """
from types import SimpleNamespace
import numpy as np

class SessionOptions:
    pass

class InferenceSession:
    def __init__(self, path, options, providers):
        assert options.intra_op_num_threads == 1 and providers == ["CPUExecutionProvider"]
        self.outputs = 2 if "two_outputs" in path else 1
        self.inputs = 2 if "two_inputs" in path else 1

    def get_inputs(self):
        return [SimpleNamespace(name=f"input {i}") for i in range(self.inputs)]

    def run(self, names, feed):
        assert names is None and list(feed) == ["input 0"]
        return [np.zeros((len(feed["input 0"]), 10), np.float32)] * self.outputs
"""


@pytest.fixture
def onnxruntime(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text(ONNXRUNTIME)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("net", "two_outputs", "two_inputs"):
        (tmp_path / f"{name}.onnx").write_bytes(b"onnx")
    return tmp_path


def test_bench_runs_onnxruntime(capsys, onnxruntime):
    argv = ("bench", "net.goss", "--threads", "1", "--seconds", "0.05", "--json", "--against")
    record = json.loads(gossamer_command(capsys, *argv, f"dense,ort={onnxruntime}/net.onnx"))
    ours, dense, ort = record["results"]
    assert (ours["engine"], dense["engine"], ort["engine"]) == ("gossamer", "dense", "ort")
    assert (ort["threads"], ort["file_bytes"]) == (1, 4)
    # Zeros are off by all of the answer.
    assert (dense["difference"], ort["difference"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "says"),
    [("absent", "no such file"), ("two_outputs", "has 2 outputs"), ("two_inputs", "inputs input 0, input 1")],
)
def test_bench_tells_what_is_wrong_with_an_onnx_file(capsys, onnxruntime, name, says):
    argv = ("bench", "net.goss", "--threads", "1", "--seconds", "0.05", "--against", f"ort={onnxruntime}/{name}.onnx")
    assert says in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("package", "against", "remedy"),
    [
        ("onnxruntime", "ort=x.onnx", "pip install onnxruntime"),
        ("torch", "torch=factory_of_tests:make", "pip install 'gossamer[torch]'"),
    ],
)
def test_bench_says_which_package_is_missing(capsys, tmp_path, monkeypatch, package, against, remedy):
    (tmp_path / f"{package}.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(capsys, "bench", "net.goss", "--seconds", "0.05", "--against", against)
    assert f"{package} is not installed here" in error
    assert remedy in error


def test_verify(capsys):
    text = gossamer_command(capsys, "verify", "pruned.goss")
    assert "valid" in text
    record = json.loads(gossamer_command(capsys, "verify", "net.goss", "--json"))
    assert [row["tier"] for row in record["tiers"]] == list(_core.cpu()["tiers"])
    assert record["agree"] is True


def test_verify_finds_a_flipped_bit(capsys, tmp_path):
    bytes_ = bytearray(Path("net.goss").read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    (tmp_path / "flipped.goss").write_bytes(bytes_)
    refused(capsys, "verify", tmp_path / "flipped.goss")


def test_convert(capsys, tmp_path):
    out = tmp_path / "made.goss"
    text = gossamer_command(capsys, "convert", "factory_of_tests:make", out, "--weights", "float16")
    assert "float16" in text
    assert 0 < out.stat().st_size < 0.7 * os.path.getsize("net.goss")


def test_cpu(capsys):
    record = json.loads(gossamer_command(capsys, "cpu", "--json"))
    assert record["chosen"] == record["tiers"][-1] or "GOSSAMER_ISA" in os.environ
    text = gossamer_command(capsys, "cpu")
    for family, kernel in record["families"].items():
        assert family in text
        assert kernel in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("info", "absent.goss"), "absent.goss"),
        (("info", "garbage.goss"), "goss"),
        (("info", "net.goss", "--isa", "avx9000"), "avx9000"),
        (("run", "net.goss", "--input", "wide.npy", "--output", "z.npy"), "301"),
        (("run", "net.goss", "--input", "garbage.goss", "--output", "z.npy"), "garbage.goss"),
        (("run", "net.goss", "--input", "absent.npy", "--output", "z.npy"), "absent.npy"),
        (("run", "net.goss", "--input", "empty.npy", "--output", "z.npy"), "empty.npy"),
        (("run", "net.goss", "--input", "cut.npy", "--output", "z.npy"), "cut.npy"),
        (("run", "net.goss", "--input", "x.npz", "--output", "z.npy"), "numpy.save"),
        (("run", "net.goss", "--input", "doubles.npy", "--output", "z.npy"), "float64"),
        (("run", "net.goss", "--input", "x.npy", "--input", "x.npy", "--output", "z.npy"), "2"),
        (("run", "net.goss", "--input", "x.npy", "--output", "absent/z.npy"), "absent/z.npy"),
        (("info", "."), "folder"),
        (("bench", "garbage.goss"), "goss"),
        (("bench", "net.goss", "--dim", "depth=3"), "depth"),
        (("bench", "net.goss", "--seconds", "0.05", "--against", "torch=absent_module:make"), "absent_module"),
        (("bench", "net.goss", "--seconds", "0.05", "--against", "ort=garbage.goss"), "ort"),
        (("convert", "factory_of_tests", "z.goss"), "package.module:factory"),
        (("convert", "factory_of_tests:absent", "z.goss"), "absent"),
        (("convert", "factory_of_tests:nothing", "z.goss"), "NoneType"),
        (("convert", "factory_of_tests:broken", "z.goss"), "no weights here"),
        (("convert", "factory_of_tests:fails", "z.goss"), "size"),
        (("convert", "factory_of_tests:make", "absent/z.goss"), "absent"),
        (("convert", "absent_module:make", "z.goss"), "absent_module"),
        (("convert", "no_python:make", "z.goss"), "SyntaxError"),
        (("convert", "factory_of_tests:unsupported", "z.goss"), "fft"),
    ],
)
def test_errors_are_a_line_that_names_the_trouble(capsys, argv, says):
    assert says in refused(capsys, *argv)
    assert not Path("z.goss").exists()
    assert not Path("z.npy").exists()


@pytest.mark.parametrize(
    "argv",
    [(), ("bench",), ("bench", "net.goss", "--threads", "0"), ("bench", "net.goss", "--against", "tflite"), ("fly",)],
)
def test_wrong_usage_exits_with_2(capsys, argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    assert ended.value.code == 2
    assert "usage: gossamer" in capsys.readouterr().err


def test_help_tells_a_newcomer_where_to_begin(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "gossamer convert" in text
    assert "exit code" in text
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gossamer {_core.__version__}\n"


@pytest.mark.parametrize("command", ["info", "run", "bench", "verify", "convert", "cpu"])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_as_a_process():
    command = [sys.executable, "-m", "gossamer", "info", "garbage.goss"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    script = Path(sys.executable).with_name("gossamer")
    done = subprocess.run([script, "cpu"], capture_output=True, text=True, check=True)
    assert "scalar" in done.stdout


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m gossamer info net.goss | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_the_board_side_imports_no_torch():
    code = (
        "import sys; from gossamer import cli; "
        "codes = [cli.main(a.split()) for a in ('info net.goss', 'bench net.goss --seconds 0.05', 'verify net.goss')]; "
        "print(codes, {'torch', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] set()"
