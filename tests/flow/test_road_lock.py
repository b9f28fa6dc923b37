"""Two processes never walk one road: the second is told who is there, and nothing stale is left of a dead one."""

import json
import multiprocessing
import time

import pytest

from safehold.cli.main import main
from safehold.core.errors import IntegrityError
from safehold.ledger.run import RunDirectory
from safehold.workflows.road import RoadConfig, run_road

FORK = multiprocessing.get_context("fork")
CONFIG = RoadConfig(task="toy/Dial")


class Silent:
    """Hears nothing."""

    def stage(self, title):
        pass

    line = stage

    def progress(self, what, done, total):
        pass

    def table(self, title, columns, rows):
        pass


def _walk(directory, there):
    with RunDirectory(directory).runner_lock():
        there.set()
        time.sleep(60)


@pytest.fixture
def walked(tmp_path, zoo, toy_size):
    """A road that another process is at; its directory and that process."""
    directory = tmp_path / "road"
    directory.mkdir()
    plain = {name: value for name, value in CONFIG.to_json().items() if name != "workers"}
    (directory / "config.json").write_text(json.dumps(plain))
    there = FORK.Event()
    walker = FORK.Process(target=_walk, args=(directory, there))
    walker.start()
    assert there.wait(30)
    yield directory, walker
    walker.kill()
    walker.join(30)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_second_walk_is_refused_by_pid_and_writes_nothing(walked):
    directory, walker = walked
    before = names(directory)
    with pytest.raises(IntegrityError, match=rf"another runner drives .*road \(pid {walker.pid}, boot .*, host "):
        run_road(directory, CONFIG, Silent())
    assert names(directory) == before


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_second_demo_ends_in_exit_code_four_and_removes_nothing(walked, capsys, more):
    directory, walker = walked
    assert main(["demo", "--out", str(directory), "--task", "toy/Dial", *more]) == 4
    assert f"pid {walker.pid}" in capsys.readouterr().err
    assert names(directory) == ["config.json", "runner.lock"]


def test_a_dead_walker_leaves_no_lock_and_what_it_left_can_be_removed(walked, capsys):
    directory, walker = walked
    walker.kill()
    walker.join(30)
    with RunDirectory(directory).alone():
        pass
    from safehold.cli.demo import clear_run

    clear_run(directory)
    assert not directory.exists()
