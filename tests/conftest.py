"""What concerns every test: how Python collects garbage."""

import gc


def pytest_collection_finish() -> None:
    # torch brings a million objects that live as long as the tests do. Python would look through all of them again and
    # again while torch.export makes others: a sixth of the time of these tests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
