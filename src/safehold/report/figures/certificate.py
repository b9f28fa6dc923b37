"""The certificate on a page: what is promised, on which premises, and how much of the allowed risk is spent."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.report.figures.palette import INK, NAIVE, OURS, SEED, house_style, new_figure, nothing_yet, whole_numbers
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
class CertificatePage:
    """What a run promised. `facts` are named values in words; `spent_after` is the risk spent after each ask."""

    kind: str
    promise: str
    facts: tuple[tuple[str, str], ...]
    premises: tuple[Premise, ...]
    delta: float
    spent_after: tuple[float, ...]

    @property
    def stands(self) -> bool:
        """True while no premise is broken."""
        return all(premise.standing != "broken" for premise in self.premises)

    @property
    def spent_at_once(self) -> bool:
        """True if all of delta was spent by declaring it, so that no ask is charged."""
        return bool(self.spent_after) and min(self.spent_after) == max(self.spent_after) == self.delta


def info(
    *,
    kind: str,
    promise: str,
    facts: Sequence[tuple[str, str]],
    premises: Sequence[Premise],
    delta: float,
    spent_after: Sequence[float],
) -> CertificatePage:
    """The page, every word of it made inert."""
    return CertificatePage(
        kind=inert(kind, 60),
        promise=inert(promise, 600),
        facts=tuple((inert(name, 40), inert(value, 90)) for name, value in facts),
        premises=tuple(Premise(id=inert(p.id, 30), text=inert(p.text, 200), standing=p.standing) for p in premises),
        delta=delta,
        spent_after=tuple(spent_after),
    )


_LINE = 0.185  # inches a line of text takes
_WIDE = 98  # characters a line holds


def draw(view: CertificatePage) -> Figure:
    """Words above, the spending of delta below, where asks are charged one by one."""
    promise = textwrap.wrap(view.promise, _WIDE)
    premises = [(p, textwrap.wrap(f"{p.id}: {p.text}" if p.text else p.id, _WIDE - 32)) for p in view.premises]
    lines = (
        1.6 + len(promise) + 0.8 + len(view.facts) + 0.8 + 1.2 + sum(max(1, len(text)) for _, text in premises) + 0.6
    )
    words_height = lines * _LINE
    with house_style():
        if view.spent_at_once:
            figure, (words,) = new_figure(7.6, words_height + 0.1)
            _write(words, view, promise, premises, lines)
            return figure
        figure, (words, budget) = new_figure(7.6, words_height + 2.0, rows=2, height_ratios=(words_height, 1.7))
        _write(words, view, promise, premises, lines)
        _spend(budget, view)
        return figure


def _write(
    ax: Axes, view: CertificatePage, promise: list[str], premises: list[tuple[Premise, list[str]]], lines: float
) -> None:
    """The words, a line at a time from the top."""
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(lines, 0)
    line = 0.8
    heading = f"Certificate: {view.kind}" if view.stands else f"Certificate: {view.kind}, which no longer stands"
    ax.text(0, line, heading, fontsize=11, fontweight="bold", va="center", color=INK if view.stands else NAIVE)
    line += 1.3
    for text in promise:
        ax.text(0, line, text, va="center", style="italic")
        line += 1
    line += 0.8
    for name, value in view.facts:
        ax.text(0, line, name, va="center", color="#52606d")
        ax.text(0.2, line, value, va="center")
        line += 1
    line += 0.8
    ax.text(0, line, "Premises", va="center", fontweight="bold")
    line += 1.2
    for premise, texts in premises:
        sign, colour, standing = SIGNS[premise.standing]
        ax.text(0.012, line, sign, va="center", ha="center", color=colour, fontweight="bold", fontsize=10)
        ax.text(0.035, line, standing, va="center", color=colour)
        for text in texts:
            ax.text(0.25, line, text, va="center")
            line += 1


def _spend(ax: Axes, view: CertificatePage) -> None:
    """Cumulative risk against its budget delta."""
    ax.set_title("Risk spent", fontsize=9)
    if not view.spent_after:
        nothing_yet(ax, "nothing asked yet")
        return
    asks = np.arange(len(view.spent_after) + 1) - 0.5  # each ask's spending as a stair around its number
    spent = [*view.spent_after, view.spent_after[-1]]
    finite = [value for value in view.spent_after if math.isfinite(value)]
    ax.axhline(view.delta, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
    ax.text(1.0, view.delta, f"budget δ = {view.delta:g} ", transform=ax.get_yaxis_transform(), ha="right", va="bottom")
    ax.step(asks, spent, where="post", color=OURS, linewidth=1.6)
    ax.fill_between(asks, spent, step="post", color=OURS, alpha=0.15, linewidth=0)
    ax.set_ylim(0, max([view.delta, *finite]) * 1.25)
    ax.set_xlim(asks[0], asks[-1])
    whole_numbers(ax)
    ax.set_xlabel("ask")
    ax.set_ylabel("probability")
