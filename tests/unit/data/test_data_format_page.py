"""docs/data-format.md: its programs and commands run, and its table of findings is complete."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from logged_episodes import dataset_of, flat_rows, one_cost, save_hdf5
from test_d4rl import d4rl_rows
from test_minari import arrays_of
from test_minari import save as minari_at
from test_npz import save_npz
from test_tables import save as save_table

from safehold.cli.main import main
from safehold.data import hdf5, layouts

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "data-format.md").read_text()


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
def test_programs_of_the_page_run(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = one_cost(dataset_of([3, 4]))
    hdf5.write(Path("episodes.h5"), dataset)
    names: dict[str, object] = {}
    exec(program, names)
    if "cost_returns" in names:
        assert names["cost_returns"] == {"speed": dataset.cost_returns[1, 0]}


def test_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = dataset_of([3, 4, 5])
    hdf5.write(Path("episodes.h5"), one_cost(dataset))
    layouts.write_dsrl(Path("dsrl.hdf5"), one_cost(dataset))
    save_hdf5(Path("d4rl.hdf5"), {**d4rl_rows([3, 4]), "infos/energy": np.ones(7), "infos/contact_force": np.ones(7)})
    minari_at(Path("line-v0"), arrays_of(dataset))
    save_npz(Path("episodes.npz"), flat_rows([3, 4]))
    flights = {"flight": [1, 1, 2], "over_tilt": [0, 1, 0], "crashed": [0, 1, 0]}
    flights |= {name: [0.5, 1.0, 2.0] for name in ("x", "y", "v0", "v1", "thrust", "progress", "over_speed")}
    for name in ("flights.csv", "flights.parquet"):
        save_table(Path(name), flights)
    for block in re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL):
        Path(block.splitlines()[0].removeprefix("# ")).write_text(block)
    lines = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)).splitlines()
    assert {line.split()[2] for line in lines} == {"check", "convert", "filter"}
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["safehold", "data"]
        assert main(words[1:]) == 0, line


def test_every_finding_is_on_the_page() -> None:
    written = set()
    for source in (REPOSITORY / "src" / "safehold" / "data").glob("*.py"):
        text = source.read_text()
        written |= set(re.findall(r'code="([a-z-]+)"', text))
        written |= set(re.findall(r'(?:_warn|_note|say)\(\s*"([a-z-]+)"', text))
    assert {"early-ends-look-safe", "coverage", "unknown-keys"} <= written
    assert [code for code in sorted(written) if f"`{code}`" not in PAGE] == []
