"""LSPC on a world whose best policies are known: reward against cost over its box, what lies in the box, what tunes it.

    python reproductions/lspc_rain.py [--seeds 0 1] [--out docs/results]

Written down before the study was run; all of it is reported:

* A seed is a log of 100 episodes on toy/Rain by mixed drivers (`testing.rain_log`), and 40 more, held out. LSPC-O and
  LSPC-S: two layers of 64, codes of 2 entries, 1000 updates of 128 steps, rates 1e-3, all else the paper's.
* Frontier: at 25 boxes from 0.05 to 3, the exact expected returns of the policy (its choices estimated from 2000 draws
  a state), beside the best reward that any policy obtains at that cost (linear program).
* Demonstrations, held out, at speed 2 or 3 on a wet road: braking is safe, the rest is not. Where the encoder puts
  them (largest entry of the mean code), the share inside a box of 0.6, and the probability that an unsafe one lies
  further out than a safe one; and the reconstruction error of all.
* The latent plane: for these two states, the expected cost of the rest of an episode, first the decoded action, then
  the policy with the box 0.25, over codes from -3 to 3.
* Worse logs, LSPC-O alone: 10 and 30 episodes; a tenth of all costs moved to other steps; only episodes of cost at
  most 2, and only the costlier half. Counted: cost at the box 0.25, and the best share of the best reward at limits
  0.1, 2.2 and 15 over the boxes.
* The paper's bound on what reward is lost and what cost is added, at discounts 0.9 and 0.99, with LSPC-O at 0.25 for
  pi, LSPC-S for pi_s, and for pi* the best policy without cost, softened by one part in a hundred of random choices.
* Deployment over boxes from 0.1 to 2 (`declare_boxes`), five runs a limit of 3, 6 and 9.5, on every seed:
  boxes over the limit, and the reward of what is recommended, beside the box that was trained in (0.25) and the best.
  Added after a first run on seed 0 alone: `BOX_DOUBT`; seed 1 had not been looked at.
* Every seed is kept in OUT/lspc-rain-raw and not repeated.
"""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from recorded import commit_here
from scipy.stats import mannwhitneyu

from safehold.core.errors import SafetyHold
from safehold.core.intervals import mean_interval
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.data.batches import TransitionSampler
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.data.select import take
from safehold.deploy.optimizer import Deployment
from safehold.envs.toy import rain
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.offline.lspc import LSPCConfig, LSPCFamily, LSPCLearner, performance_gap
from safehold.report.figures import palette
from safehold.testing.rain_log import mixed_log, returns_of
from safehold.workflows.deploy import DeployConfig, Oversight, declare_boxes, drive
from safehold.workflows.files import write_text

BOXES = tuple(np.geomspace(0.05, 3.0, 25).tolist())
TUNED = tuple(np.linspace(0.1, 2.0, 39).tolist())
LIMITS = (0.1, 2.2, 15.0)
DEPLOYED = (3.0, 6.0, 9.5)
RUNS = 5
RISKY = (5, 7)
"""Wet, at speed 2 and at speed 3."""
PLANE = np.linspace(-3.0, 3.0, 41)
CONFIG = LSPCConfig(
    hidden=(64, 64), latent=2, batch_size=128, steps=1000, critic_learning_rate=1e-3, learning_rate=1e-3
)


def main() -> None:
    """Runs what is missing, then writes the tables and the drawing."""
    commit = commit_here()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    raw, records = arguments.out / "lspc-rain-raw", []
    for seed in arguments.seeds:
        parts: dict[str, Callable[[int], Any]] = {"learnt": learnt, "worse": worse_logs}
        parts |= {f"deployed-{limit:g}": partial(tuned, limit=limit) for limit in DEPLOYED}
        record: dict[str, Any] = {"seed": seed}
        for name, part in parts.items():
            path = raw / f"{seed}-{name}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(part(seed)) + "\n")
            record[name] = json.loads(path.read_text(encoding="utf-8"))
        records.append(record | record.pop("learnt"))
    document = {"commit": commit, "host": platform.machine(), "torch": torch.__version__, "seeds": records}
    write_text(arguments.out / "lspc-rain.json", json.dumps(document) + "\n")
    write_text(arguments.out / "lspc-rain.md", tables(records))
    draw(records).savefig(arguments.out / "lspc-rain.svg")
    print(tables(records))


def learnt(seed: int) -> dict[str, Any]:
    """What both variants learnt from one log."""
    log, held = mixed_log(100, seed), mixed_log(40, 1000 + seed)
    reward, safe = (trained(log, variant, seed) for variant in ("o", "s"))
    return {
        "frontier": {"o": frontier(reward), "s": frontier(safe)},
        "demonstrations": demonstrations(reward, held),
        "plane": {str(state): plane(reward, state) for state in RISKY},
        "bounds": {str(discount): bounds(reward, safe, discount) for discount in (0.9, 0.99)},
    }


def worse_logs(seed: int) -> dict[str, Any]:
    """What LSPC-O learnt from worse logs."""
    return {name: worse(one, seed) for name, one in worsened(mixed_log(100, seed), seed).items()}


def tuned(seed: int, limit: float) -> list[dict[str, Any]]:
    """Certified deployments over boxes at a limit."""
    log = mixed_log(100, seed)
    family = trained(log, "o", seed)
    truth = {box: obtained(family.at((box,))) for box in (0.25, *TUNED)}
    return [deployed(family, truth, log, limit, run) for run in range(RUNS)]


def trained(log: OfflineDataset, variant: str, seed: int) -> LSPCFamily:
    """A family from a log."""
    config = LSPCConfig.model_validate({**CONFIG.model_dump(), "variant": variant})
    streams = Streams(seed)
    learner = LSPCLearner(log.spec, Normaliser.fit(log.observations), config, streams.integer("weights"))
    fit(OfflineRun(learner, TransitionSampler(log, config.batch_size), streams["batches"]), steps=config.steps)
    return learner.policy()


def frontier(family: LSPCFamily) -> list[list[float]]:
    """A row a box: its half width, exact expected reward and cost, the best reward at that cost."""
    return [[*row, rain.best(row[2] + 1e-9).reward] for row in over_boxes(family)]


def over_boxes(family: LSPCFamily) -> list[list[float]]:
    """A row a box: its half width, exact expected reward and cost."""
    return [[box, *obtained(family.at((box,)))] for box in BOXES]


def demonstrations(family: LSPCFamily, held: OfflineDataset) -> dict[str, float]:
    """Where held-out safe and unsafe steps lie, and how well steps are reconstructed."""
    rows = np.arange(held.n_steps) + np.repeat(np.arange(len(held)), held.lengths)
    seen, choice = held.observations[rows], rain.choices(held.actions[:, 0].astype(np.float64))
    codes = family.codes_of(seen, held.actions)
    risky = (seen[:, 0] > 0.6) & (seen[:, 1] == 1.0)
    width = np.abs(codes).max(axis=1)
    safe, unsafe = width[risky & (choice == 0)], width[risky & (choice != 0)]
    errors = np.abs(family.reconstructed(seen, codes) - held.actions)[:, 0]
    return {
        "safe": len(safe),
        "unsafe": len(unsafe),
        "safe_inside": float((safe <= 0.6).mean()),
        "keeping_inside": float((width[risky & (choice == 1)] <= 0.6).mean()),
        "accelerating_inside": float((width[risky & (choice == 2)] <= 0.6).mean()),
        "further_out": float(mannwhitneyu(unsafe, safe).statistic / (len(safe) * len(unsafe))),
        "error_safe": float(errors[risky & (choice == 0)].mean()),
        "error_unsafe": float(errors[risky & (choice != 0)].mean()),
        "error_all": float(errors.mean()),
    }


def plane(family: LSPCFamily, state: int) -> list[list[float]]:
    """Expected cost of the rest of an episode over codes, first the decoded action, then the policy at 0.25."""
    then = rain.chances_of(family.at((0.25,)), 500, np.random.default_rng(0))
    step = np.einsum("sc,sct->st", then, rain.transitions())
    to_go = np.zeros(rain.STATES)
    for _ in range(rain.HORIZON - 1):
        to_go = step @ (rain.signals()[:, 1] + to_go)
    by_choice = rain.transitions()[state] @ (rain.signals()[:, 1] + to_go)
    codes = np.stack(np.meshgrid(PLANE, PLANE, indexing="ij"), axis=-1).reshape(-1, 2)
    acted = family.reconstructed(np.repeat(rain.observations()[state][None], len(codes), axis=0), codes)
    costs = by_choice[rain.choices(acted[:, 0].astype(np.float64))]
    plain: list[list[float]] = costs.reshape(len(PLANE), len(PLANE)).tolist()
    return plain


def worsened(log: OfflineDataset, seed: int) -> Mapping[str, OfflineDataset]:
    """The same log with less, or something worse, in it."""
    rng = np.random.default_rng(seed)
    costs = log.costs.copy()
    moved = rng.permutation(log.n_steps)[: log.n_steps // 10]
    costs[moved] = costs[rng.permutation(moved)]
    total = log.cost_returns[:, 0]
    return {
        "10 episodes": take(log, np.arange(10), "10 episodes"),
        "30 episodes": take(log, np.arange(30), "30 episodes"),
        "a tenth of the costs elsewhere": replace(log, costs=costs),
        "only cost <= 2": take(log, np.flatnonzero(total <= 2.0), "cheap"),
        "only the costlier half": take(log, np.flatnonzero(total >= np.median(total)), "costly"),
    }


def worse(log: OfflineDataset, seed: int) -> dict[str, Any]:
    """LSPC-O from a worse log."""
    rows = np.array(over_boxes(trained(log, "o", seed)))
    shares = []
    for limit in LIMITS:
        kept = rows[rows[:, 2] <= limit, 1]
        shares.append(float(kept.max()) / rain.best(limit).reward if len(kept) else 0.0)
    near = int(np.argmin(np.abs(rows[:, 0] - 0.25)))
    return {"episodes": len(log), "cost": float(rows[near, 2]), "reward": float(rows[near, 1]), "shares": shares}


def bounds(reward: LSPCFamily, safe: LSPCFamily, discount: float) -> dict[str, float]:
    """The paper's bound, beside what is really lost, from the worst state."""
    draws, rng = 2000, np.random.default_rng(0)

    def soft(chances: Float[np.ndarray, "8 3"]) -> Float[np.ndarray, "8 3"]:
        return np.asarray(0.99 * chances + 0.01 / rain.CHOICES)

    own = soft(rain.chances_of(reward.at((0.25,)), draws, rng))
    careful = soft(rain.chances_of(safe.at((0.25,)), draws, rng))
    # brake wherever the road may punish, else as fast as costs nothing whatever the weather does
    best = soft(np.eye(rain.CHOICES)[[2, 2, 1, 1, 0, 0, 0, 0]])
    divergences = [float(np.max(np.sum(p * np.log(p / q), axis=1))) for p, q in ((own, careful), (careful, best))]

    def values(chances: Float[np.ndarray, "8 3"]) -> Float[np.ndarray, "8 2"]:
        step = np.einsum("sc,sct->st", chances, rain.transitions())
        return np.linalg.solve(np.eye(rain.STATES) - discount * step, step @ rain.signals())

    lost = values(best) - values(own)
    return {
        "own_from_safe": divergences[0],
        "safe_from_best": divergences[1],
        "bound": performance_gap(1.0, discount, *(max(d, 0.0) for d in divergences)),
        "reward_lost": float(lost[:, 0].max()),
        "cost_added": float(-lost[:, 1].min()),
        "largest_value": 1.0 / (1.0 - discount),
    }


def deployed(
    family: LSPCFamily, truth: Mapping[float, list[float]], log: OfflineDataset, limit: float, run: int
) -> dict[str, Any]:
    """One certified deployment over boxes; `truth` is what each of them obtains."""
    declared = declare_boxes(log, TUNED, DeployConfig(limit=limit), Oversight(seed_by="the study"))
    held = ""
    with tempfile.TemporaryDirectory() as place:
        one = Deployment.create(
            Path(place) / "run",
            declared,
            policy_digest="study",
            provenance={},
            seed_rule="attested",
            seed_evidence={},
        )
        with one:
            try:
                drive(one, "toy/Rain", family, streams=Streams(1000 * run + round(10 * limit)))
            except SafetyHold as reason:
                held = type(reason).__name__
            asked = [one.state.trial(name).target[0] for name in one.state.asked]
            found = one.status().recommendation
    return {
        "limit": limit,
        "run": run,
        "held": held,
        "asked": asked,
        "over": sum(truth[box][1] > limit for box in set(asked)),
        "recommended": None if found is None else [found.target[0], *truth[found.target[0]]],
        "fixed": truth[0.25],
        "best_box": max(pair for pair in truth.values() if pair[1] <= limit),
    }


def obtained(policy: Policy) -> list[float]:
    """Exact expected reward and cost."""
    reward, cost = returns_of(policy)
    return [float(reward), float(cost)]


def tables(records: Sequence[Mapping[str, Any]]) -> str:
    """All that is counted, as Markdown: seed by seed, or with Student's interval from five values on."""

    def over(values: Sequence[float] | Float[np.ndarray, "_"]) -> str:
        few = ", ".join(f"{value:.4g}" for value in values)  # an interval over so few would say nothing
        return few if len(values) < 5 else str(mean_interval(np.array(values)))

    lines = ["| box | variant | reward | cost | share of the best reward at that cost |", "|---|---|---|---|---|"]
    for variant in ("o", "s"):
        for place in range(0, len(BOXES), 2):
            rows = np.array([record["frontier"][variant][place] for record in records])
            shown = (over(rows[:, 1]), over(rows[:, 2]), over(rows[:, 1] / rows[:, 3]))
            lines.append(f"| {BOXES[place]:.3g} | {variant} | {' | '.join(shown)} |")
    lines += ["", "| held-out demonstrations | over seeds |", "|---|---|"]
    for name in records[0]["demonstrations"]:
        lines.append(f"| {name} | {over([record['demonstrations'][name] for record in records])} |")
    lines += ["", f"| log | cost at 0.25 | shares at limits {', '.join(f'{b:g}' for b in LIMITS)} |", "|---|---|---|"]
    for name in records[0]["worse"]:
        shares = [over([record["worse"][name]["shares"][i] for record in records]) for i in range(len(LIMITS))]
        cost = over([record["worse"][name]["cost"] for record in records])
        lines.append(f"| {name} | {cost} | {'; '.join(shares)} |")
    lines += ["", "| discount | bound | reward lost | cost added | largest value |", "|---|---|---|---|---|"]
    for discount in records[0]["bounds"]:
        names = ("bound", "reward_lost", "cost_added", "largest_value")
        cells = [over([record["bounds"][discount][name] for record in records]) for name in names]
        lines.append(f"| {discount} | {' | '.join(cells)} |")
    columns = ("seed", "limit", "runs", "over it", "reward, tuned", "reward, box 0.25", "reward, best box under it")
    lines += ["", f"| {' | '.join(columns)} |", "|---|---|---|---|---|---|---|"]
    for record in records:
        for limit in DEPLOYED:
            runs = record[f"deployed-{limit:g}"]
            rewards = [run["recommended"][1] for run in runs if run["recommended"] is not None]
            unsafe = sum(run["over"] > 0 for run in runs)
            fixed, best = runs[0]["fixed"][0], runs[0]["best_box"][0]
            start = f"| {record['seed']} | {limit:g} | {len(runs)} | {unsafe}"
            lines.append(f"{start} | {over(rewards)} | {fixed:.4g} | {best:.4g} |")
    return "\n".join(lines) + "\n"


def draw(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Reward against cost over the box beside the best that can be had; and what the latent plane costs."""
    with palette.house_style():
        figure, axes = palette.new_figure(9.6, 3.4, columns=3)
        costs = np.linspace(0.0, 15.5, 60)
        axes[0].plot(costs, [rain.best(cost).reward for cost in costs], color=palette.DATA, label="best of any policy")
        for variant, colour in (("o", palette.OURS), ("s", palette.SEED)):
            for number, record in enumerate(records):
                rows = np.array(record["frontier"][variant])
                label = f"LSPC-{variant.upper()}, 25 boxes" if number == 0 else None
                axes[0].plot(rows[:, 2], rows[:, 1], "o", color=colour, markersize=3.5, alpha=0.6, label=label)
        axes[0].set_xlabel("expected cost of an episode")
        axes[0].set_ylabel("expected reward of an episode")
        axes[0].legend()
        for ax, state in zip(axes[1:], RISKY, strict=True):
            values = np.array(records[0]["plane"][str(state)])
            shown = ax.pcolormesh(PLANE, PLANE, values.T, shading="nearest", cmap="cividis", rasterized=True)
            for box in (0.25, 1.0):
                ax.plot([-box, box, box, -box, -box], [-box, -box, box, box, -box], color="white", linewidth=1.0)
            ax.set_title(f"wet, at speed {state // 2}: boxes 0.25 and 1")
            ax.set_xlabel("code, first entry")
            figure.colorbar(shown, ax=ax, label="expected cost to go")
        axes[1].set_ylabel("code, second entry")
        return figure


if __name__ == "__main__":
    main()
