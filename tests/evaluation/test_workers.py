"""Several processes give the results of one."""

import os
import signal
from functools import partial

import pytest

from video_llama.datasets.question_rows import question_rows
from video_llama.errors import WorkerError
from video_llama.evaluation.answering import load_row_answerer
from video_llama.evaluation.workers import InProcess, Processes, make_workers


@pytest.fixture
def answerer(load, config):
    """Loads the model of a worker."""
    return partial(load_row_answerer, load, config)


@pytest.fixture
def batches(data):
    rows = list(question_rows(data))
    return [rows[start : start + 2] for start in range(0, len(rows), 2)]


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(answerer, batches):
    one, two = make_workers(answerer, 1), make_workers(answerer, 2)
    assert (type(one), type(two)) == (InProcess, Processes)
    try:
        assert list(two.results(batches)) == list(one.results(batches))
        assert two.description() == one.description()
    finally:
        two.close()


@pytest.mark.slow
def test_a_process_that_ends_is_an_error(answerer, batches):
    workers = Processes(answerer, 1)
    try:
        workers.description()
        [pid] = workers._pool._processes
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="Run the same command again"):
            list(workers.results(batches))
    finally:
        workers.close()


def test_at_least_one(answerer):
    with pytest.raises(ValueError, match="workers is 0"):
        make_workers(answerer, 0)
