"""Parts of an array in threads: in order, and no more threads than linear algebra may use."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from ravl_core.kmedoids import cluster_regions
from ravl_core.threads import in_threads, n_threads


@pytest.mark.parametrize("most", [1, 2, 5])
def test_results_come_in_the_order_of_the_parts(most):
    waits = threading.Event()

    def work(part):
        if most > 1 and part == 0:
            assert waits.wait(10)  # the first one ends last
        elif part == 1:
            waits.set()
        return part**2

    assert in_threads(work, [0, 1, 2, 3], most) == [0, 1, 4, 9]


def test_no_part_is_no_result():
    assert in_threads(str, [], 2) == []


def test_an_error_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda part: 1 / part, [1, 0], 2)


def test_one_thread_is_the_callers_own():
    with threadpool_limits(1):
        assert n_threads() == 1
        assert in_threads(lambda _: threading.get_ident(), [0, 1]) == 2 * [threading.get_ident()]


def test_the_number_of_threads_changes_no_cluster(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("ravl_core.threads.n_threads", lambda threads=threads: threads)
        found.append(cluster_regions(rows, range(2, 9)))
    assert found[0].silhouettes == found[1].silhouettes
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
