"""docs/data-format.md: its programs run, and its table of findings is complete."""

import re
from pathlib import Path

import pytest
from logged_episodes import dataset_of, one_cost

from safehold.data import hdf5

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


def test_every_finding_is_on_the_page() -> None:
    written = set()
    for source in (REPOSITORY / "src" / "safehold" / "data").glob("*.py"):
        text = source.read_text()
        written |= set(re.findall(r'code="([a-z-]+)"', text))
        written |= set(re.findall(r'(?:_warn|_note|say)\(\s*"([a-z-]+)"', text))
    assert {"early-ends-look-safe", "coverage", "unknown-keys"} <= written
    assert [code for code in sorted(written) if f"`{code}`" not in PAGE] == []
