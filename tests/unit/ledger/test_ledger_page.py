"""docs/ledger.md names what tests it, every kind of event, and the schema as they are."""

import re
from pathlib import Path

from safehold.ledger import store
from safehold.ledger.events import KINDS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ledger.md").read_text()


def test_every_test_that_the_page_names_exists():
    files = [*ROOT.glob("tests/**/test_*.py")]
    names = {file.name for file in files}
    for file in files:
        names |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    cited = re.findall(r"`(test_[\w.]+)`", PAGE)
    assert len(cited) > 30
    assert [test for test in cited if not any(name.startswith(test.removesuffix("...")) for name in names)] == []


def test_the_page_lists_every_kind_of_event_every_column_and_the_schema():
    assert set(KINDS) <= set(re.findall(r"`(\w+)`", PAGE))
    assert set(store.COLUMNS.split(", ")) <= set(re.findall(r"`(\w+)`", PAGE))
    assert f"## Format (schema {store.SCHEMA})" in PAGE
