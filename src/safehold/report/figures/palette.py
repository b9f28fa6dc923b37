"""The look of every figure: colours that a colour-blind reader tells apart, one size of type, units on the axes."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from safehold.core.errors import UsageError

# Okabe & Ito (2008), chosen to stay apart under every common colour blindness; marks differ in shape as well.
OURS = "#0072b2"
NAIVE = "#d55e00"
SEED = "#009e73"
TUNED = "#e69f00"
REWARD = "#7a5195"
DATA = "#66727f"
INK = "#1f2933"
FAINT = "#d5dae0"
CERTIFIED = "#cde6f5"
EXPANDER = "#8fc3e6"
REVOKED = "#f3c3a8"
OVER_LIMIT = "#fbe3d6"

MARKS = {
    "dial": ("o", DATA),
    "seed": ("s", SEED),
    "deployed": ("o", OURS),
    "explore": ("o", OURS),
    "maximise": ("^", OURS),
    "paid": ("o", OURS),
    "premise": ("s", SEED),
    "bound": ("o", OURS),
    "revoked": ("X", NAIVE),
    "final": ("*", TUNED),
    "naive": ("X", NAIVE),
    "bc_safe": ("D", REWARD),
    "other": ("v", DATA),
}
"""Label of a target -> its mark and colour, the same in every figure."""

NAMES = {
    "dial": "tried on the dial",
    "seed": "seed target",
    "deployed": "deployed target",
    "explore": "deployed to learn",
    "maximise": "deployed for reward",
    "paid": "deployed, paid from delta",
    "premise": "deployed as seed target",
    "bound": "deployed, certified by bounds",
    "revoked": "deployed, revoked now",
    "final": "tuned target",
    "naive": "naive target",
    "bc_safe": "cloned from safe episodes",
    "other": "other policy or target",
}

_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e9ecef",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
    "hatch.color": "#b8c0c8",
}

THICK_SCATTER = 250
"""Above this many points a scatter is drawn as an image inside the vector figure, so that a page stays small."""


@contextmanager
def house_style() -> Iterator[None]:
    """The settings above, for the time of one drawing; matplotlib's own are back afterwards."""
    with mpl.rc_context(_SETTINGS):  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of its own (no pyplot, no global list), in inches, and its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, [ax for row in axes for ax in row]


def limit_line(ax: Axes, limit: float, name: str, along: Literal["x", "y"]) -> None:
    """The limit as a dashed line across the axis that holds the cost, and everything over it tinted."""
    label = f"limit {limit:g}"
    if along == "x":
        ax.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label=f"{name} {label}".strip())
        low, high = ax.get_xlim()
        ax.axvspan(limit, max(high, limit), color=OVER_LIMIT, zorder=0, linewidth=0)
        ax.set_xlim(low, max(high, limit))
    else:
        ax.axhline(limit, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label=f"{name} {label}".strip())
        low, high = ax.get_ylim()
        ax.axhspan(limit, max(high, limit), color=OVER_LIMIT, zorder=0, linewidth=0)
        ax.set_ylim(low, max(high, limit))


def whole_numbers(ax: Axes) -> None:
    """Ticks of the axis below at whole numbers only: it counts asks."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))


def log_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis upwards with plain numbers at its ticks."""
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def span(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """Axis limits around finite values, wide enough to see a single one."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = (high - low) * margin or max(abs(high) * 0.1, 0.5)
    return low - room, high + room


def nothing_yet(ax: Axes, text: str) -> None:
    """What an empty figure says instead of showing empty axes."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color="#52606d")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)


def svg(figure: Figure, name: str) -> str:
    """The figure as one <svg> element for a page: no date, no prologue, ids that no other figure of the page has."""
    buffer = io.StringIO()
    with house_style(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", dpi=80, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", _lean(text))


def _lean(text: str) -> str:
    """The same drawing in fewer letters.

    Without ids that nobody refers to, groups that say nothing, indentation, more than hundredths of a point, and with
    the fonts named once.
    """
    used = set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text)
    text = re.sub(
        r'(?<= )(d|x|y|transform|points)="([^"]*)"',
        lambda found: f'{found.group(1)}="{_hundredths(found.group(2))}"',
        text,
        flags=re.DOTALL,
    )
    text = _ungrouped(re.sub(r">\s+<", "><", text))
    fonts = set(re.findall(r"font-family: [^;\"]*", text))
    if len(fonts) == 1:
        (font,) = fonts
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text).replace("<svg ", f'<svg style="{font}" ', 1)
    return text


def _ungrouped(text: str) -> str:
    """Without the tags of groups that have no attributes."""
    kept: list[bool] = []

    def tag(found: re.Match[str]) -> str:
        if found.group() == "</g>":
            return "</g>" if kept.pop() else ""
        if found.group().endswith("/>"):
            return ""
        kept.append(found.group() != "<g>")
        return found.group() if kept[-1] else ""

    return re.sub(r"<g\b[^>]*>|</g>", tag, text)


def _hundredths(numbers: str) -> str:
    """Coordinates rounded to two places."""
    rounded = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), numbers)
    return re.sub(r"\s+", " ", rounded).strip()


def save(figure: Figure, path: Path) -> None:
    """Writes a picture; the suffix says which kind.

    Raises:
        UsageError: if the suffix is neither .png, .svg nor .pdf.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"{path}: a picture ends in .png, .svg or .pdf")
    dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with house_style():
        figure.savefig(path, format=kind, dpi=150, metadata=dated)
