"""The pages that state what is promised name only what exists, and every premise that a certificate can name."""

import importlib
import re
from pathlib import Path

import pytest

from safehold.deploy import choose
from safehold.deploy.declaration import RULES

ROOT = Path(__file__).parents[3]
PAGES = ("guarantees.md", "when-not-to-trust.md")
PACKAGES = "cli|core|deploy|gp|ledger|report|rollout|workflows"


def code_spans(page):
    """Everything in backticks, blocks of code included."""
    return set(re.findall(r"`([^`\n]+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))


def exists(dotted):
    """Whether a dotted name inside the package is a module, or an attribute or field of what it leads to."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["safehold", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name) and name not in getattr(found, "__dataclass_fields__", {}):
                return False
            found = getattr(found, name, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_code_on_the_page_exists(page):
    names = {span for span in code_spans(page) if re.fullmatch(rf"({PACKAGES})(\.\w+)+", span)}
    assert names
    assert sorted(name for name in names if not exists(name)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_the_page_names_exists(page):
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {span for span in code_spans(page) if re.fullmatch(r"test_\w+", span)}
    assert sorted(named - defined) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_the_page_names_or_links_exists(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    files = re.findall(r"(?<![\w/.])((?:tests|reproductions|docs|benchmarks)/[\w./-]+\.\w+)", text)
    missing = [link for link in links if "://" not in link and not (ROOT / "docs" / link).exists()]
    assert missing + [file for file in files if not (ROOT / file).exists()] == []


def test_premises_on_the_page_are_those_that_certificates_name():
    rows = re.findall(
        r"^\| (A\d+-[\w, -]+?) \|", (ROOT / "docs/guarantees.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    stated = {name for row in rows for name in row.split(", ")}
    named = {premise for rule in RULES.values() for premise in rule.premises}
    named |= {*choose.PREMISES, *choose.SEED_PREMISES.values(), choose.NORMAL_EPISODES, choose.FRESH_EPOCH}
    named.add(choose.CORRELATION)
    assert stated == named


def test_every_rule_is_on_the_page():
    assert set(RULES) <= code_spans("guarantees.md")
