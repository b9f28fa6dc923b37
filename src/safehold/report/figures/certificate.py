"""The certificate on a page: what is promised of one target, on which premises, and how delta is shared out."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from safehold.report.figures.palette import DATA, FAINT, INK, NAIVE, OURS, REWARD, SEED, TUNED, house_style
from safehold.report.plain_text import inert

Standing = Literal["checked", "trusted", "broken"]

SIGNS: dict[Standing, tuple[str, str, str]] = {
    "checked": ("✓", SEED, "checked by this run"),
    "trusted": ("○", INK, "trusted, not checked"),
    "broken": ("✗", NAIVE, "does not hold"),
}
"""Standing of a premise -> its sign, colour, and the words that say the same without either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Premise:
    """One assumption: its id in docs/guarantees.md, its sentence, and whether it was checked, trusted or broken."""

    id: str
    text: str
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLine:
    """One limit in words; what was believed of the target; the bound or risk that it was certified on; what came."""

    limit: str
    believed: str
    certified: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of delta, and how much of it is spent; None for a part that is spent by being declared."""

    name: str
    part: float
    spent: float | None

    @property
    def colour(self) -> str:
        """The same in every picture."""
        return share_colour(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePage:
    """What was promised of one target. `facts` are named values in words; `doubts` say why it no longer stands."""

    of: str
    kind: str
    target: str
    promise: str
    doubts: tuple[str, ...]
    limits: tuple[LimitLine, ...]
    delta: float
    shares: tuple[Share, ...]
    premises: tuple[Premise, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def stands(self) -> bool:
        """True while nothing speaks against it."""
        return not self.doubts and all(premise.standing != "broken" for premise in self.premises)

    @property
    def verdict(self) -> str:
        """Whether it stands, in a sentence."""
        if self.stands:
            return "It stands, as far as this run can tell."
        return "It no longer stands: " + "; ".join([*self.doubts, *self._broken]) + "."

    @property
    def _broken(self) -> list[str]:
        return [f"{premise.id} does not hold" for premise in self.premises if premise.standing == "broken"]


def share_colour(name: str) -> str:
    """The colour of a share of delta."""
    known = {"seed": SEED, "certificate": OURS, "noise": TUNED}
    return known.get(name.split(",")[0], REWARD)


def info(
    *,
    of: str,
    kind: str,
    target: str,
    promise: str,
    doubts: Sequence[str],
    limits: Sequence[LimitLine],
    delta: float,
    shares: Sequence[Share],
    premises: Sequence[Premise],
    facts: Sequence[tuple[str, str]],
) -> CertificatePage:
    """The page, every word of it made inert."""
    return CertificatePage(
        of=inert(of, 90),
        kind=inert(kind, 60),
        target=inert(target, 120),
        promise=inert(promise, 900),
        doubts=tuple(inert(doubt, 200) for doubt in doubts),
        limits=tuple(
            LimitLine(
                limit=inert(line.limit, 160),
                believed=inert(line.believed, 60),
                certified=inert(line.certified, 60),
                told=inert(line.told, 60),
            )
            for line in limits
        ),
        delta=delta,
        shares=tuple(Share(name=inert(s.name, 30), part=s.part, spent=s.spent) for s in shares if s.part > 0),
        premises=tuple(Premise(id=inert(p.id, 30), text=inert(p.text, 200), standing=p.standing) for p in premises),
        facts=tuple((inert(name, 40), inert(value, 300)) for name, value in facts),
    )


_PAPER = (8.27, 11.69)  # inches; A4, upright
_MARGIN = 0.6  # inches
_SIZE = 9.0  # points of the text, where all of it fits
_LINE = 1.45  # height of a line, in sizes of its text
_BAR = 1.6  # height of the bar of delta, in lines


@dataclass(frozen=True, slots=True)
class _Line:
    """Texts at shares of the width, on one line; `height` in lines. `bar`: the shares of delta stand here."""

    texts: tuple[tuple[float, str, str, bool], ...]
    height: float = 1.0
    size: float = 1.0
    bar: bool = False


def draw(view: CertificatePage) -> Figure:
    """One sheet of A4; the text shrinks where there is too much of it."""
    with house_style():
        figure = Figure(figsize=_PAPER)
        FigureCanvasAgg(figure)
        size = _SIZE
        lines = list(_lines(view, size))
        room = (_PAPER[1] - 2 * _MARGIN) * 72
        while size > 4 and sum(line.height for line in lines) * _LINE * size > room:
            size -= 0.25
            lines = list(_lines(view, size))
        width, height = (1 - 2 * _MARGIN / side for side in _PAPER)
        ax = figure.add_axes((_MARGIN / _PAPER[0], _MARGIN / _PAPER[1], width, height))
        ax.set_axis_off()
        ax.set_xlim(0, 1)
        ax.set_ylim(room / (_LINE * size), 0)
        at = 0.0
        for line in lines:
            for x, text, colour, bold in line.texts:
                weight = "bold" if bold else "normal"
                middle = at + line.height / 2
                ax.text(x, middle, text, fontsize=size * line.size, color=colour, fontweight=weight, va="center")
            if line.bar:
                _bar(ax, view, at)
            at += line.height
        return figure


def _lines(view: CertificatePage, size: float) -> Iterable[_Line]:
    """The page from the top, wrapped for this size of text."""
    wide = int((_PAPER[0] - 2 * _MARGIN) * 72 / (0.56 * size))  # characters that a line of this size holds

    def plain(text: str, x: float = 0.0, colour: str = INK, bold: bool = False) -> Iterable[_Line]:
        for piece in textwrap.wrap(text, max(10, int(wide * (1 - x)))) or [""]:
            yield _Line(((x, piece, colour, bold),))

    def heading(text: str) -> Iterable[_Line]:
        yield _Line((), height=0.6)
        yield _Line(((0.0, text, INK, True),), height=1.3, size=1.1)

    yield _Line(((0.0, "Certificate of a deployed target", INK, True),), height=2.2, size=1.7)
    yield from plain(f"{view.of}. Rule: {view.kind}.")
    yield from plain(f"Target {view.target}", bold=True)
    yield from plain(view.verdict, colour=SEED if view.stands else NAIVE, bold=True)
    yield from heading("What is promised")
    yield from plain(view.promise)
    yield from heading("Limits")
    for line in view.limits:
        yield from plain(line.limit)
        known = (f"believed {line.believed}", f"certified {line.certified}", f"told {line.told}")
        yield _Line(tuple((0.03 + 0.32 * place, text, DATA, False) for place, text in enumerate(known)))
    yield from heading(f"delta = {view.delta:g}, shared out")
    yield _Line((), height=_BAR, bar=True)
    for share in view.shares:
        spent = "spent by being declared" if share.spent is None else f"{share.spent:.3g} of it spent"
        yield _Line(((0.0, "■", share.colour, False), (0.03, f"{share.name} {share.part:.3g}, {spent}", INK, False)))
    yield from heading("Premises (docs/guarantees.md)")
    for premise in view.premises:
        sign, colour, words = SIGNS[premise.standing]
        pieces = textwrap.wrap(f"{premise.id}: {premise.text}", int(wide * 0.72))
        for number, piece in enumerate(pieces):
            signs = ((0.0, sign, colour, True), (0.03, words, colour, False)) if number == 0 else ()
            yield _Line((*signs, (0.28, piece, INK, False)))
    yield from heading("Where it comes from")
    for name, value in view.facts:
        for number, piece in enumerate(textwrap.wrap(value, int(wide * 0.74)) or [""]):
            names = ((0.0, name, DATA, False),) if number == 0 else ()
            yield _Line((*names, (0.24, piece, INK, False)))


def _bar(ax: Axes, view: CertificatePage, at: float) -> None:
    """The shares of delta end to end; what is spent of a part is filled."""
    left, middle, high = 0.0, at + _BAR / 2, _BAR * 0.7
    ax.barh(middle, 1.0, height=high, facecolor="none", edgecolor=FAINT)
    for share in view.shares:
        wide = share.part / view.delta
        filled = wide if share.spent is None else wide * min(share.spent / share.part, 1.0)
        ax.barh(middle, wide, left=left, height=high, color=share.colour, alpha=0.3, linewidth=0)
        ax.barh(middle, filled, left=left, height=high, color=share.colour, linewidth=0)
        ax.barh(middle, wide, left=left, height=high, facecolor="none", edgecolor=share.colour, linewidth=1.0)
        left += wide
