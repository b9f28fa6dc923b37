import multiprocessing

import pytest
from ledger_samples import ONE_OF_EACH

from safehold.core.errors import IntegrityError
from safehold.ledger.run import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "a run")


def test_a_run_is_created_read_and_opened(run):
    assert not run.started
    run.create(ONE_OF_EACH).close()
    assert run.started
    assert run.events() == list(ONE_OF_EACH)
    with run.open() as ledger:
        assert ledger.path == run.ledger_path


def _hold(run: RunDirectory, taken, done) -> None:
    with run.runner_lock():
        taken.set()
        done.wait(30)


def test_one_run_has_one_runner_and_a_dead_one_leaves_no_lock(run):
    run.create(ONE_OF_EACH).close()
    context = multiprocessing.get_context("fork")
    taken, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run, taken, done))
    other.start()
    assert taken.wait(30)
    with pytest.raises(IntegrityError, match=rf"another runner .*pid {other.pid}, boot "), run.runner_lock():
        pass
    other.kill()
    other.join()
    with run.runner_lock():
        pass
