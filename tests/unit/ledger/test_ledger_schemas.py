"""Ledgers of every earlier schema, as the code of their time wrote them: refused by name, and left as they are."""

import shutil
from pathlib import Path

import pytest

from safehold.core.errors import IntegrityError
from safehold.ledger import store
from safehold.ledger.run import RunDirectory

GOLDEN = Path(__file__).parents[2] / "data" / "ledgers"


def test_there_is_a_file_of_every_earlier_schema():
    assert sorted(path.name for path in GOLDEN.iterdir()) == [f"schema-{n}" for n in range(1, store.SCHEMA)]


@pytest.mark.parametrize("schema", range(1, store.SCHEMA))
@pytest.mark.parametrize("act", ["read", "write", "recover"])
def test_an_earlier_schema_is_refused_by_name(tmp_path, schema, act):
    run = RunDirectory(shutil.copytree(GOLDEN / f"schema-{schema}", tmp_path / "run"))
    before = run.ledger_path.read_bytes(), run.ledger_path.with_suffix(".head").read_bytes()
    with pytest.raises(IntegrityError, match=rf"schema {schema}, .* reads schema {store.SCHEMA}.*older safehold"):
        run.recover(tmp_path / "new") if act == "recover" else run.open(read_only=act == "read")
    assert (run.ledger_path.read_bytes(), run.ledger_path.with_suffix(".head").read_bytes()) == before
    assert not RunDirectory(tmp_path / "new").started
