"""What concerns every test: how Python collects garbage."""

import gc


def pytest_collection_finish() -> None:
    # What torch brings lives as long as the tests do. Python would look through all of it again and again while
    # torch.export makes more: some 15 % of the time of a part of test_op_db.py was spent in that (perf).
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
