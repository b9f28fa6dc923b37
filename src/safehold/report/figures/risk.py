"""What of delta is shared out to what, and how much of it the asks have spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.report.figures.bounds import SMALLEST_RISK, Break, ask_label, break_lines
from safehold.report.figures.palette import (
    DATA,
    INK,
    OURS,
    REWARD,
    SEED,
    THICK_SCATTER,
    TUNED,
    house_style,
    log_axis,
    new_figure,
    nothing_yet,
    whole_numbers,
)
from safehold.report.plain_text import inert

CERTIFICATE = "certificate"
"""The share out of which asks are charged; of a roll-out in stages, the shares whose names begin with it."""

SHARE_COLOURS = {"seed": SEED, "certificate": OURS, "noise": TUNED}
SHARE_NAMES = {"seed": "seed targets", "certificate": "certificate", "noise": "bounds on the noise"}
NO_CHARGES = "No charges: the bounds of these rules hold for all targets and rounds at once, so no ask costs anything."


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one ask was charged; its risk, and the most it might have been charged, for a rule that pays for risk."""

    number: int
    charge: float
    risk: float | None
    cap: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The shares that add up to delta, in order, and the charges out of the certificate's share."""

    delta: float
    shares: tuple[tuple[str, float], ...]
    charges: tuple[Charge, ...]
    charging: bool
    breaks: tuple[Break, ...]

    @property
    def spent(self) -> tuple[float, ...]:
        """Sum of the charges after each ask."""
        return tuple(float(total) for total in np.cumsum([charge.charge for charge in self.charges]))

    @property
    def budget(self) -> float:
        """The certificate's share of delta, all stages together."""
        return sum(part for name, part in self.shares if name.startswith(CERTIFICATE))


def info(
    delta: float,
    shares: Mapping[str, float],
    charges: Sequence[Charge],
    *,
    charging: bool,
    breaks: Sequence[Break] = (),
) -> Spending:
    """The spending of a run; `charging`: whether any of its rules charges for asks. Empty shares are left out."""
    return Spending(
        delta=delta,
        shares=tuple((inert(name, 30), float(part)) for name, part in shares.items() if part > 0),
        charges=tuple(charges),
        charging=charging,
        breaks=tuple(breaks),
    )


def draw(view: Spending) -> Figure:
    """The shares as one bar; below, what was spent and what each ask cost, or that nothing is charged."""
    with house_style():
        if not view.charging:
            figure, (bar,) = new_figure(7.6, 1.45)
            share_bar(bar, view)
            figure.supxlabel(NO_CHARGES, x=0.01, ha="left", fontsize=8.5)
            return figure
        figure, (bar, total, each) = new_figure(7.6, 5.0, rows=3, height_ratios=(0.9, 2.2, 1.7))
        share_bar(bar, view)
        if not view.charges:
            nothing_yet(total, "nothing asked yet")
            nothing_yet(each, "")
            return figure
        _total(total, view)
        _each(each, view)
        each.sharex(total)
        total.tick_params(labelbottom=False)
        whole_numbers(each)
        each.set_xlabel(ask_label(view.breaks))
        marks = {name: mark for ax in (total, each) for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=5)
        return figure


def share_bar(ax: Axes, view: Spending) -> None:
    """The shares of delta end to end; of the certificate's, the part that is spent is filled."""
    ax.set_axis_off()
    ax.set_title(f"delta = {view.delta:g}, shared out")
    ax.set_xlim(0, view.delta)
    ax.set_ylim(-0.9, 0.6)
    left, unpaid = 0.0, view.spent[-1] if view.spent else 0.0
    for place, (name, part) in enumerate(view.shares):
        paying = name.startswith(CERTIFICATE)
        colour = SHARE_COLOURS[CERTIFICATE] if paying else SHARE_COLOURS.get(name, (REWARD, DATA)[place % 2])
        words = f"{SHARE_NAMES.get(name, name)} {part:.3g}"
        spent = min(unpaid, part) if paying else 0.0
        unpaid -= spent
        ax.barh(0, part, left=left, height=0.8, color=colour, alpha=0.35, linewidth=0)
        ax.barh(0, spent, left=left, height=0.8, color=colour, linewidth=0)
        if paying and view.charging:
            words += f" ({spent:.3g} spent, filled)"
        ax.barh(0, part, left=left, height=0.8, facecolor="none", edgecolor=colour, linewidth=1.2, label=words)
        left += part
    ax.legend(loc="upper left", bbox_to_anchor=(-0.01, 0.2), ncols=3, handlelength=1.2)


def _total(ax: Axes, view: Spending) -> None:
    """Cumulative charges against the share."""
    edges = np.array([charge.number for charge in view.charges], dtype=np.float64)
    edges = np.append(edges - 0.5, edges[-1] + 0.5)
    spent = [*view.spent, view.spent[-1]]
    ax.axhline(view.budget, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label="certificate's share of delta")
    many = len(spent) > THICK_SCATTER
    ax.step(edges, spent, where="post", color=OURS, linewidth=1.6, label="spent so far", rasterized=many)
    ax.fill_between(edges, spent, step="post", color=OURS, alpha=0.15, linewidth=0, rasterized=many)
    ax.set_ylim(0, max(view.budget, spent[-1]) * 1.15)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylabel("probability")
    ax.set_title("Risk spent", pad=14 if view.breaks else 6)
    break_lines(ax, view.breaks, lettered=True)


def _each(ax: Axes, view: Spending) -> None:
    """Every ask's price against the most it might have cost; free asks at the bottom."""
    many = len(view.charges) > THICK_SCATTER
    caps = [(c.number, c.cap) for c in view.charges if c.cap is not None]
    if caps:
        ax.plot(
            *zip(*caps, strict=True),
            color=INK,
            linewidth=1.0,
            drawstyle="steps-mid",
            label="most an ask may cost",
            rasterized=many,
        )
    floor = SMALLEST_RISK
    for paid, mark, colour, label in ((True, "o", OURS, "charged"), (False, "v", DATA, "free")):
        mine = [c for c in view.charges if (c.charge > 0) == paid]
        if mine:
            ax.scatter(
                [c.number for c in mine],
                [max(c.charge, floor) for c in mine],
                marker=mark,
                s=22,
                color=colour,
                linewidths=0,
                label=label,
                rasterized=many,
                zorder=3,
            )
    log_axis(ax, floor / 2, 2.0 * max([charge.cap or 0.0 for charge in view.charges] + [1e-3]))
    ax.set_ylabel("price of the ask")
    break_lines(ax, view.breaks, lettered=False)
