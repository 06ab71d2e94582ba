"""Many threads, forks and exits: nothing is lost, nothing waits for ever.

Each scenario is a program of its own, with a time limit: what goes wrong here hangs or ends the process.
"""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gossamer
from gossamer import _core

#: Seconds a scenario may take; each needs one or two.
LIMIT = 60

# What every scenario begins with: the model of argv[1], inputs of any batch, and what it answers to them on one thread.
BEGIN = """
import multiprocessing, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import gossamer
from gossamer import runtime

path = sys.argv[1]
def example(batch, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 6, 24, 24), np.float32), rng.integers(0, 50, (batch, 4))
def equal(got, want):
    return all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
def is_worker(task):
    try:
        return open(f"/proc/self/task/{task}/comm").read().startswith("gossamer-")
    except OSError:  # it ended since it was listed
        return False
def workers(expected):
    # A thread that was joined may be listed for a moment longer.
    for _ in range(100):
        found = sum(map(is_worker, os.listdir("/proc/self/task")))
        if found == expected:
            break
        time.sleep(0.02)
    return found
one = runtime.load(path, threads=1)
BATCHES = [1, 2, 3, 5, 8, 13]
want = {batch: one.run(*example(batch)) for batch in BATCHES}
def answers(model, i):
    batch = BATCHES[i % len(BATCHES)]
    return equal(model.run(*example(batch)), want[batch])
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A network whose steps share work in each of the ways there are, and one that may refuse its operand."""
    rng = np.random.default_rng(0)
    b = _core.Builder()
    x = b.input("x", "float32", ["n", 6, 24, 24], [2, 6, 24, 24])
    ids = b.input("ids", "int64", ["n", 4], [2, 4])
    window = {"kernel": [3, 3], "stride": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": 1}
    weight = rng.standard_normal((32, 54), np.float32)
    y = b.add("conv", [x, b.matrix("conv", weight)], {**window, "activation": {"fn": "silu"}})
    deep = b.tensor("deep", rng.standard_normal((32, 9), np.float32))
    y = b.add("conv", [y, deep], {**window, "groups": 32, "activation": {"fn": "relu"}})
    y = b.add(
        "pool", [y], {**{k: window[k] for k in ("kernel", "padding", "dilation")}, "stride": [2, 2], "kind": "max"}
    )
    flat = b.add("reshape", [y], {"shape": ["n", -1]})
    sparse = rng.standard_normal((64, 32 * 144), np.float32) * (rng.random((64, 32 * 144)) < 0.1)
    head = b.add("linear", [flat, b.matrix("head", sparse.astype(np.float32))])
    b.output("softmax", b.add("softmax", [head], {"axis": 1}))
    table = b.tensor("table", rng.standard_normal((50, 8), np.float32))
    b.output("words", b.add("embedding", [ids, table]))
    path = tmp_path_factory.mktemp("threads") / "net.goss"
    b.save(path)
    return path


def scenario(path, code, *args):
    """Runs a scenario; what it printed."""
    command = [sys.executable, "-X", "faulthandler", "-c", BEGIN + textwrap.dedent(code), path, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_many_threads_call_one_model_with_batches_of_their_own(path):
    code = """
        model = runtime.load(path, threads=2)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda i: answers(model, i), range(240)))
        print(len(results), all(results))
    """
    assert scenario(path, code) == "240 True"


def test_outputs_belong_to_the_caller(path):
    code = """
        model = runtime.load(path, threads=2)
        kept = [model.run(*example(2, seed)) for seed in range(20)]
        del model
        print(all(equal(got, one.run(*example(2, seed))) for seed, got in enumerate(kept)))
    """
    assert scenario(path, code) == "True"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("when", ["before", "after", "during"])
def test_a_child_runs_the_model(path, method, when):
    # `spawn` imports this program anew, so it must be a file.
    code = """
        def child(model, queue):
            queue.put([equal(model.run(*example(batch)), want[batch]) for batch in (1, 5, 5)])
        if __name__ == "__main__":
            method, when = sys.argv[2:]
            context = multiprocessing.get_context(method)
            model, stop = runtime.load(path, threads=2), threading.Event()
            def others():
                while not stop.is_set():
                    model.run(*example(3))
            callers = [threading.Thread(target=others) for _ in range(2 if when == "during" else 0)]
            [caller.start() for caller in callers]
            if when == "after":
                model.run(*example(2))
            queue = context.Queue()
            for _ in range(4 if method == "fork" else 1):
                process = context.Process(target=child, args=(model, queue))
                process.start()
                print(queue.get(timeout=30))
                process.join(30)
                print(process.exitcode)
            stop.set()
            [caller.join() for caller in callers]
            # The parent's pool is none the worse.
            print(equal(model.run(*example(8)), want[8]))
    """
    program = path.parent / f"{method}_{when}.py"
    program.write_text(BEGIN + textwrap.dedent(code))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", program, path, method, when]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    rounds = 4 if method == "fork" else 1
    assert done.stdout.split("\n") == ["[True, True, True]", "0"] * rounds + ["True", ""]


def test_a_call_that_fails_disturbs_no_other(path):
    code = """
        model = runtime.load(path, threads=2)
        def bad(i):
            x, ids = example(3)
            try:
                # Refused before it starts, or by the look-up, after all the other steps were computed.
                model.run(*((x[:, :5], ids) if i % 2 else (x, ids + 1000)))
            except gossamer.ShapeError:
                return True
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda i: bad(i) if i % 3 == 0 else answers(model, i), range(180)))
        print(all(results))
    """
    assert scenario(path, code) == "True"


def test_the_interpreter_exits_while_a_daemon_thread_runs(path):
    code = """
        model = runtime.load(path, threads=2)
        started = threading.Event()
        def forever():
            inputs = example(13)
            while True:
                model.run(*inputs)
                started.set()
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        started.wait()
        print("leaving", flush=True)
    """
    for _ in range(5):
        assert scenario(path, code) == "leaving"


def test_models_are_loaded_and_dropped_while_others_run(path):
    code = """
        model, stop = runtime.load(path, threads=2), threading.Event()
        def caller():
            right = True
            while not stop.is_set():
                right &= equal(model.run(*example(3)), want[3])
            return right
        def loader():
            right = True
            for i in range(30):
                mine = runtime.load(path if i % 2 else open(path, "rb").read(), threads=3)
                right &= equal(mine.run(*example(5)), want[5])
            return right
        with ThreadPoolExecutor(4) as pool:
            callers, loaders = [pool.submit(caller) for _ in range(2)], [pool.submit(loader) for _ in range(2)]
            right = [each.result() for each in loaders]
            stop.set()
            right += [each.result() for each in callers]
        del model
        # Every worker of every dropped model has ended.
        print(all(right), workers(0))
    """
    assert scenario(path, code) == "True 0"


def test_any_number_of_threads_gives_the_same_bits(path):
    code = """
        for threads in (1, 2, 3, 7, 64):
            model = runtime.load(path, threads=threads)
            right = all(answers(model, i) for i in range(len(BATCHES)))
            print(model.threads, workers(threads - 1), right)
            del model
    """
    expected = [f"{threads} {threads - 1} True" for threads in (1, 2, 3, 7, 64)]
    assert scenario(path, code).split("\n") == expected


def test_a_call_leaves_the_interpreter_to_other_threads(path):
    code = """
        model, counted, done = runtime.load(path, threads=1), 0, threading.Event()
        inputs = example(400)
        def long():
            for _ in range(3):
                model.run(*inputs)
            done.set()
        thread = threading.Thread(target=long)
        model.run(*inputs)
        start = time.monotonic()
        thread.start()
        while not done.is_set():
            # A small call neither waits for the long one's pool nor for its arena.
            model.run(*example(1))
            counted += 1
        thread.join()
        print(counted > 20)
    """
    assert scenario(path, code) == "True"


def test_idle_threads_sleep(path):
    code = """
        model = runtime.load(path, threads=4)
        model.run(*example(8))
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(0.5)
        print(time.process_time() - before < 0.05)
    """
    assert scenario(path, code) == "True"


def test_by_default_a_call_has_the_cores_it_may_use(path):
    code = """
        print(runtime.load(path).threads == len(os.sched_getaffinity(0)))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(runtime.load(path).threads)
    """
    # A cgroup's quota may leave it fewer.
    assert scenario(path, code).split("\n") in (["True", "1"], ["False", "1"])


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_is_refused(path, threads):
    with pytest.raises(ValueError, match="threads"):
        gossamer.load(path, threads=threads)
