import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from safehold.report.figures import bounds, data_plane
from safehold.report.page import Picture, Section, Sign, Table, Verdict, page
from safehold.report.plain_text import inert, inert_lines

HOSTILE = "<script>alert(1)</script> \x1b[31m\u202edesrever $x$ {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def hostile_page() -> str:
    rng = np.random.default_rng(0)
    cloud = data_plane.draw(
        data_plane.info(rng.exponential(9, 900), rng.normal(size=900), cost_name=HOSTILE, cost_unit=HOSTILE, limit=25.0)
    )
    empty = bounds.draw(
        bounds.info(
            [
                bounds.cost(
                    HOSTILE,
                    HOSTILE,
                    HOSTILE,
                    [bounds.BoundAtAsk(number=0, mean=1.0, upper=2.0, limit=3.0, risk=0.1, told=None)],
                    certified=False,
                )
            ],
            [bounds.Break(number=0, word=HOSTILE)],
        )
    )
    return page(
        HOSTILE,
        Verdict("bad", HOSTILE, (HOSTILE,)),
        [
            Section(
                title=HOSTILE,
                text=HOSTILE,
                pictures=(Picture("cloud", cloud, HOSTILE), Picture("bounds", empty, HOSTILE)),
                tables=(Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE),),
            )
        ],
        [HOSTILE],
        [Sign(HOSTILE, HOSTILE, HOSTILE)],
    )


def test_a_page_fetches_nothing(hostile_page):
    links = re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)""", hostile_page)
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert "url(http" not in hostile_page
    assert "@import" not in hostile_page
    assert "default-src 'none'" in hostile_page


def test_hostile_names_are_inert(hostile_page):
    assert "<script" not in hostile_page
    assert "\x1b" not in hostile_page
    assert "\u202e" not in hostile_page
    assert "&lt;script&gt;" in hostile_page
    assert "{{ 7 * 7 }}" in hostile_page


def test_no_two_figures_share_an_id(hostile_page):
    ids = re.findall(r'\bid="([^"]*)"', hostile_page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]*)"', hostile_page)) | set(re.findall(r"url\(#([^)]*)\)", hostile_page))
    assert used <= set(ids)


def test_drawings_are_well_formed_and_carry_no_date(hostile_page):
    drawings = re.findall(r"<svg.*?</svg>", hostile_page, flags=re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        ET.fromstring(drawing)
        assert "metadata" not in drawing


def test_a_page_is_the_same_when_made_again():
    def make() -> str:
        figure = data_plane.draw(data_plane.info(np.arange(9.0), np.arange(9.0)))
        return page("t", Verdict("good", "h"), [Section(title="s", pictures=(Picture("p", figure, "c"),))])

    assert make() == make()


def test_a_big_cloud_stays_small():
    rng = np.random.default_rng(0)
    figure = data_plane.draw(data_plane.info(rng.exponential(9, 100_000), rng.normal(size=100_000), limit=25.0))
    text = page("t", Verdict("good", "h"), [Section(title="s", pictures=(Picture("p", figure, "c"),))])
    assert len(text) < 250_000


@pytest.mark.parametrize(("standing", "word"), [("good", "SAFE"), ("caution", "CAUTION"), ("bad", "NOT SAFE")])
def test_the_verdict_is_said_in_words_not_only_in_colour(standing, word):
    assert f"<strong>{word}</strong>" in page("t", Verdict(standing, "h"), [])


def test_inert_shows_codes_and_cuts():
    assert inert("a\x1b[0m\u202eb\x00\n") == "a\\u001b[0m\\u202eb\\u0000\\u000a"
    assert inert("ä€😀") == "ä€😀"
    assert inert("x" * 300, longest=10) == "x" * 9 + "…"
    assert inert_lines("one\ntwo\x07") == "one\ntwo\\u0007"


def test_what_looks_wrong_has_a_box_only_if_something_does():
    assert "What looks wrong" not in page("t", Verdict("good", "h"), [])
    text = page("t", Verdict("good", "h"), [], signs=[Sign("drift", "it moved", "look")])
    assert "<dt>drift</dt>" in text
    assert "<dd>it moved.</dd>" in text
