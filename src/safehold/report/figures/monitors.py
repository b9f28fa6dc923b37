"""What the monitors of a run held against it over time, and where they would have raised the alarm."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.report.figures.bounds import Break, ask_label, break_lines
from safehold.report.figures.palette import (
    INK,
    NAIVE,
    OURS,
    REWARD,
    SEED,
    THICK_SCATTER,
    house_style,
    log_axis,
    new_figure,
    nothing_yet,
    whole_numbers,
)
from safehold.report.plain_text import inert

TITLES = {
    "innovations": "Does the model foretell what is measured?",
    "rewards": "Does it foretell the reward that a cost goes with?",
    "costs": "Do deployed targets keep the limits?",
}
_STYLES = ((OURS, "-"), (SEED, "--"), (REWARD, "-."), (INK, ":"))
_LOWEST = 1e-3  # evidence for the declaration is drawn down to here, evidence against it up to 100 alarms


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One monitor of one limit: its e-value after the tells at these asks, and the value that raises the alarm."""

    monitor: str
    limit: str
    numbers: tuple[int, ...]
    values: tuple[float, ...]
    needed: float

    @property
    def peak(self) -> float:
        """Largest evidence against what was declared."""
        return max(self.values, default=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """Every monitor's evidence, and where the terms changed: there the monitors begin anew."""

    evidence: tuple[Evidence, ...]
    breaks: tuple[Break, ...]


def info(evidence: Sequence[Evidence], breaks: Sequence[Break] = ()) -> Monitoring:
    """The monitors of a run."""
    return Monitoring(evidence=tuple(evidence), breaks=tuple(breaks))


def draw(view: Monitoring) -> Figure:
    """A panel a kind of monitor: evidence on a logarithmic axis, and the height of the alarm."""
    with house_style():
        kinds = list(dict.fromkeys(shown.monitor for shown in view.evidence if shown.numbers))
        rows = max(1, len(kinds))
        figure, axes = new_figure(7.6, 1.9 * rows + 0.6, rows=rows, sharex=True)
        if not kinds:
            nothing_yet(axes[0], "nothing told yet")
            return figure
        for ax, kind in zip(axes, kinds, strict=True):
            _panel(ax, [shown for shown in view.evidence if shown.monitor == kind])
            ax.set_title(TITLES.get(kind, inert(kind, 40)), fontsize=9, pad=14 if view.breaks and ax is axes[0] else 6)
            break_lines(ax, view.breaks, lettered=ax is axes[0])
        whole_numbers(axes[-1])
        axes[-1].set_xlabel(ask_label(view.breaks))
        marks = {name: mark for ax in axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=4)
        return figure


def _panel(ax: Axes, evidence: Sequence[Evidence]) -> None:
    """The limits of one kind of monitor."""
    needed = max(shown.needed for shown in evidence)
    for place, shown in enumerate(evidence):
        colour, line = _STYLES[place % len(_STYLES)]
        heights = [min(max(value, _LOWEST), 100 * needed) for value in shown.values]
        ax.plot(
            shown.numbers,
            heights,
            color=colour,
            linestyle=line,
            linewidth=1.4,
            marker="o" if len(heights) < 60 else "",
            markersize=3,
            label=inert(shown.limit, 40),
            rasterized=len(heights) > THICK_SCATTER,
        )
    ax.axhline(needed, color=NAIVE, linewidth=1.2, linestyle=(0, (5, 3)), label="alarm")
    ax.axhline(1.0, color=INK, linewidth=0.8)
    log_axis(ax, _LOWEST / 2, 200 * needed)
    ax.set_ylabel("evidence against")
