"""Why the default closes less of the gap than a ledger that knows the right model: its parts changed one at a time.

    python reproductions/regret_variants.py [--runs 400] [--out docs/results]

Made after the regret study had shown the default to miss its bars on drawn surfaces, to see what a bar would cost. The
study's drawn surfaces on the 25 x 25 dial, 20 asks of 20 episodes, delta = 0.05, other worlds (seed 777) than the
study's; acquisition reward_ucb. Variants: how many even shares one ask may cost; hyper-prior weights that are equal
instead of heavier on short length-scales; no length-scales below 0.15 and 0.2 of an axis; the right model. Nothing here
is promised or gated; variants are changed in this process alone.
"""

import argparse
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import regret

from safehold import __version__
from safehold.core.intervals import mean_interval, proportion_interval
from safehold.core.seeding import Streams
from safehold.deploy import prior
from safehold.deploy.certificates import risk_ledger
from safehold.deploy.replay import State
from safehold.deploy.simulate import simulate

SEED = 777
SHORT = prior.LENGTHSCALE_SHARES


def equal_weights() -> Any:
    """The default hyper-prior with every member as likely as any other."""
    original = prior._Scales.of_cost

    def of_cost(self: Any, sd: float, what: str) -> Any:
        kernels, _ = original(self, sd, what)
        return kernels, (1.0,) * len(kernels)

    return patch.object(prior._Scales, "of_cost", of_cost)


VARIANTS: dict[str, Any] = {
    "the default": None,
    "an ask may cost 1 even share": lambda: patch.object(risk_ledger, "EVEN_SHARES", 1.0),
    "an ask may cost 1.5 even shares": lambda: patch.object(risk_ledger, "EVEN_SHARES", 1.5),
    "an ask may cost 6 even shares": lambda: patch.object(risk_ledger, "EVEN_SHARES", 6.0),
    "equal weights": equal_weights,
    "no length-scale under 0.15": lambda: patch.object(prior, "LENGTHSCALE_SHARES", SHORT[1:]),
    "no length-scale under 0.2": lambda: patch.object(prior, "LENGTHSCALE_SHARES", SHORT[2:]),
    "the right model": None,
}


@contextmanager
def changed(variant: str) -> Iterator[None]:
    """With one part of the default changed."""
    change = VARIANTS[variant]
    if change is None:
        yield
    else:
        with change():
            yield


def row_of(variant: str, runs: int) -> dict[str, Any]:
    """What a variant comes to."""
    tuner = "ledger, right model" if variant == "the right model" else "default"
    row = regret.Row("drawn", "drawn", tuner, "reward_ucb")
    with changed(variant):
        declaration = regret.declared(row)
        start, draw = State.start(declaration), regret.worlds(row, declaration)
        found = []
        for number in range(runs):
            world = draw(Streams(SEED)[f"world/{number}"])
            found.append(simulate(declaration, world, Streams(SEED)[f"run/{number}"], start))
    return {
        "variant": variant,
        "runs": runs,
        "closed": sum(run.gained for run in found) / sum(run.gap for run in found),
        "share": [run.gained / run.gap for run in found if run.gap > 0],
        "spent": float(np.mean([sum(run.charges) for run in found])),
        "violating": sum(run.violating for run in found),
    }


def main() -> None:
    """Runs all variants and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--commit", default="unknown")
    arguments = parser.parse_args()
    rows = [row_of(variant, arguments.runs) for variant in VARIANTS]
    command = f"python reproductions/regret_variants.py --runs {arguments.runs}"
    lines = [
        "# What the default's caution costs in reward",
        "",
        f"`{command}` (safehold {__version__}, commit {arguments.commit}, seed {SEED}). Drawn surfaces, 20 asks of 20",
        "episodes, delta = 0.05. Closed: of the gap to the best safe target, all runs together; then the mean over",
        "runs, with its 95 % interval.",
        "",
        "| variant | closed | mean over runs | spent of 0.05 | runs with an unsafe target |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        unsafe = proportion_interval(row["violating"], row["runs"])
        share = mean_interval(np.array(row.pop("share")))
        row["mean_share"] = [share.estimate, share.low, share.high]
        lines.append(
            f"| {row['variant']} | {100 * row['closed']:.0f} % | {100 * share.estimate:.0f} % "
            f"[{100 * share.low:.0f}, {100 * share.high:.0f}] | {row['spent']:.3f} "
            f"| {row['violating']} of {row['runs']} [{unsafe.low:.4f}, {unsafe.high:.4f}] |"
        )
    record = {"command": command, "commit": arguments.commit, "python": platform.python_version(), "rows": rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "regret-variants.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "regret-variants.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
