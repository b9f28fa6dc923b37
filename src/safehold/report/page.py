"""One self-contained HTML page: verdict first, then sections of pictures and tables; no network, no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from safehold.report.figures.certificate import SIGNS, CertificatePage
from safehold.report.figures.palette import svg
from safehold.report.plain_text import inert, inert_lines

Standing = Literal["good", "caution", "bad"]

_WORDS: dict[Standing, str] = {"good": "SAFE", "caution": "CAUTION", "bad": "NOT SAFE"}


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers in rows; cells are text already, intervals included."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure; `name` is unique on its page, `caption` says what to see, and is its text alternative."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, a few sentences, pictures, tables; a certificate stands on a sheet of its own when printed."""

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    certificate: CertificatePage | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a hurried reader takes away. `word` replaces the standing's own ("SAFE", "CAUTION", "NOT SAFE")."""

    standing: Standing
    headline: str
    lines: tuple[str, ...] = ()
    word: str = ""


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that looks wrong: its name, the numbers that show it, and what to do about it."""

    name: str
    evidence: str
    remedy: str


def page(
    title: str,
    verdict: Verdict,
    sections: Sequence[Section],
    commands: Sequence[str] = (),
    signs: Sequence[Sign] = (),
) -> str:
    """The page as text. Everything that came from outside is escaped and inert; only our own drawings are markup.

    `signs` are shown in a box of their own, if there are any; `commands` are the next commands to run.
    """
    template = _environment().get_template("page.html")
    return template.render(
        title=title,
        verdict=verdict,
        word=verdict.word or _WORDS[verdict.standing],
        signs=signs,
        sections=sections,
        commands=commands,
        drawing=_drawing,
        premise_signs=SIGNS,
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("safehold.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else inert_lines(str(value)),
    )
    environment.filters["inert"] = inert
    return environment


def _drawing(picture: Picture) -> Markup:
    """The picture's <svg>, which matplotlib escaped as it wrote it."""
    return Markup(svg(picture.figure, picture.name))
