"""What concerns every test: torch's threads, and how Python collects garbage."""

import gc
import os

# Tensors here are small. Two threads of torch wait for each other at every step, spinning, which takes twice the time
# where something else has one of two cores: test_int8.py 23 s with one thread, 43 with two. What tests start inherits
# it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    # What torch brings lives as long as the tests do. Python would look through all of it again and again while
    # torch.export makes more: some 15 % of the time of a part of test_op_db.py was spent in that (perf).
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
