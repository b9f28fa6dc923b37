r"""Training and evaluation of the constrained decision transformer beside OSRL's own, on the same cores, in one run.

    python benchmarks/offline_speed.py --osrl CHECKOUT [--out docs/results/offline-speed] [--rounds 7] [--quick]

CHECKOUT is one of github.com/liuzuxin/OSRL; of it only the module of the network and its trainer is imported.

The size is the published one: d 128, 3 layers, 8 heads, K 10, dropout 0.1, the stochastic head, cost loss 0.02; a task
of 17 observation entries, 6 actions, 1000 steps. Numbers to learn from are random: they change no time.

Training. A step is everything from drawing a batch to the changed weights; OSRL is handed one ready batch of tensors
again and again, because its loader works in processes of its own. "published" and "osrl" are our presets; "bfloat16" is
"published" with `--precision bfloat16`. The ways take turns in every round; given are medians over rounds and the
median of the rounds' ratios, first by the clock, then by processor time, which says more on a shared machine.

The share of the machine's peak: the FLOPs of a step over its processor time, over what the same threads reach in a
float32 product of two 2048 x 2048 matrices in the same rounds. FLOPs: 6 a weight and token of the linear layers, two
forth and four back, with S = 40 tokens; the last block has 20 (w) that heads read:
6 [12 d^2 S (layers - 1) + 3 d^2 S + 9 d^2 w] + 12 d S [S (layers - 1) + w] a sample; the other parts are not counted.

Evaluation. Whole episodes in an environment at one target, random weights (they change no time). OSRL: its own loop,
`CDTTrainer.rollout`, one episode at a time, in the bare world. Ours: `rollout`, in checked worlds, blocks of 10 in
lockstep. Bare: the world alone with random actions. One core: one thread, one process. All cores: OSRL with as many
threads, we with as many worker processes, and bare worlds one a core. Steps/s by the clock.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from safehold.core.env import SafeEnv
from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.learn.offline.cdt import PRESETS, CDTLearner
from safehold.learn.offline.cdt_network import CDTConfig
from safehold.learn.offline.dial import DialPolicy, windows
from safehold.learn.offline.scales import Scales
from safehold.rollout.episodes import BLOCK, rollout

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import osrl_peer

TASK = TaskSpec(env_id="bench/Random", observation_size=17, action=Box((-1.0,) * 6, (1.0,) * 6), horizon=1000)
WORLDS = {"HalfCheetahVelocity": 1, "bullet/CarCircle": 3}
"""Where evaluation is clocked, and how many episodes of OSRL make one reading there."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way in all rounds: seconds by the clock and of the processor, for so many samples or steps each.

    `load`: the machine's load average when the rounds began and when they were over.
    """

    what: str
    way: str
    load: list[float]
    amount: list[int]
    clock: list[float]
    processor: list[float]

    @property
    def processor_rate(self) -> float:
        """Median amount a second of the processor."""
        return float(np.median(np.array(self.amount) / np.array(self.processor)))

    @property
    def rate(self) -> float:
        """Median amount a second."""
        return float(np.median(np.array(self.amount) / np.array(self.clock)))


def random_log(spec: TaskSpec, episodes: int = 20) -> OfflineDataset:
    """Noise of a task's shape."""
    rng, steps = np.random.default_rng(0), episodes * spec.horizon
    return OfflineDataset(
        spec=spec,
        observations=rng.normal(size=(steps + episodes, spec.observation_size)).astype(np.float32),
        actions=rng.uniform(-1.0, 1.0, size=(steps, spec.action.size)).astype(np.float32),
        rewards=rng.normal(size=steps),
        costs=(rng.random((steps, 1)) < 0.05).astype(np.float64),
        offsets=np.arange(0, steps + 1, spec.horizon),
        terminated=np.zeros(episodes, dtype=np.bool_),
    )


def scales_for(config: CDTConfig, log: OfflineDataset) -> Scales:
    """As the preset has them."""
    return Scales.osrl(log.spec) if config.scaling == "osrl" else Scales.fit(log, config.to_go_features)


def step_of(config: CDTConfig, log: OfflineDataset) -> Callable[[], int]:
    """One update of ours: a batch is drawn, weights change."""
    learner = CDTLearner(log.spec, scales_for(config, log), config, 0)
    sampler, rng = windows(log, config, config.context), np.random.default_rng(0)

    def step() -> int:
        learner.update(sampler.sample(rng))
        return config.batch_size

    return step


def osrl_step(module: Any, log: OfflineDataset, batch_size: int) -> Callable[[], int]:
    """One update of OSRL's, on a batch that is there."""
    trainer = osrl_peer.published_trainer(module, observations=17, actions=6, horizon=1000, env=None)
    config = PRESETS["published"].model_copy(update={"batch_size": batch_size})
    batch = osrl_peer.tensors(windows(log, config, config.context).sample(np.random.default_rng(0)))

    def step() -> int:
        trainer.train_one_step(*batch)
        return batch_size

    return step


def product() -> Callable[[], int]:
    """Four products of square float32 matrices."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)

    def multiply() -> int:
        for _ in range(4):
            a @ b
        return 4

    return multiply


def in_turns(what: str, ways: Mapping[str, Callable[[], int]], rounds: int) -> list[Reading]:
    """Readings of all ways; a first round warms up and is not kept."""
    readings = [Reading(what, way, [os.getloadavg()[0]], [], [], []) for way in ways]
    for number in range(rounds + 1):
        for reading, run in zip(readings, ways.values(), strict=True):
            clock, processor = time.perf_counter(), time.process_time()
            amount = run()
            processor, clock = time.process_time() - processor, time.perf_counter() - clock
            if number > 0:
                reading.amount.append(amount)
                reading.clock.append(clock)
                reading.processor.append(processor)
    for reading in readings:
        reading.load.append(os.getloadavg()[0])
        print(f"{what}, {reading.way}: {reading.rate:,.0f} a second", flush=True)
    return readings


def training(module: Any, threads: int, batch_size: int, rounds: int) -> list[Reading]:
    """All ways to train, and the machine's product."""
    torch.set_num_threads(threads)
    log = random_log(TASK)
    size = {"batch_size": batch_size}
    ours = {name: PRESETS[name].model_copy(update=size) for name in ("published", "osrl")}
    ways = {
        "OSRL": osrl_step(module, log, batch_size),
        **{name: step_of(config, log) for name, config in ours.items()},
        "bfloat16": step_of(ours["published"].model_copy(update={"precision": "bfloat16"}), log),
        "product": product(),
    }
    return in_turns(f"training, batch {batch_size}, {threads} threads", ways, rounds)


def flops_a_sample(config: CDTConfig, tokens_a_step: int = 4) -> float:
    """Multiplications and additions of one sample, forth and back; see the head of this file."""
    d, s, w, before = config.width, tokens_a_step * config.context, 2 * config.context, config.layers - 1
    return 6.0 * (12 * d**2 * s * before + 3 * d**2 * s + 9 * d**2 * w) + 12.0 * d * s * (s * before + w)


class BareWorld:
    """A registered world without its checks, as OSRL's loop calls one."""

    def __init__(self, env_id: str) -> None:
        self._task = registry.task(env_id)
        self._world, self._resets, self._steps = self._task.world(), 0, 0

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """The next seed's episode."""
        self._resets, self._steps = self._resets + 1, 0
        return self._world.reset(seed=self._resets)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the cost under the name that OSRL reads."""
        seen, reward, terminated, truncated, info = self._world.step(action)
        self._steps += 1
        over = truncated or self._steps >= self._task.spec.horizon
        return seen, reward, terminated, over, {"cost": self._task.cost(info)}


def bare_steps(env_id: str, steps: int) -> int:
    """Random actions in a bare world."""
    env = BareWorld(env_id)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (1000, registry.spec(env_id).action.size)).astype(np.float32)
    for step in range(steps):
        if any(env.step(actions[step % 1000])[2:4]):
            env.reset()
    return steps


def policy_of(preset: str, spec: TaskSpec) -> DialPolicy:
    """A preset's untrained network at a target."""
    config, log = PRESETS[preset], random_log(spec, 3)
    return CDTLearner(spec, scales_for(config, log), config, 0).policy().at((100.0, 20.0))


def evaluation(module: Any, env_id: str, cores: int, rounds: int) -> list[Reading]:
    """All ways to run episodes."""
    spec = registry.spec(env_id)
    torch.set_num_threads(cores)
    trainer = osrl_peer.published_trainer(
        module,
        observations=spec.observation_size,
        actions=spec.action.size,
        horizon=spec.horizon,
        env=BareWorld(env_id),
    )
    numbers = iter(range(10_000))
    bare = BLOCK * spec.horizon

    def osrl_episodes() -> int:
        return sum(osrl_peer.episode(trainer, 100.0, 20.0) for _ in range(WORLDS[env_id]))

    def ours(policy: DialPolicy) -> Callable[[], int]:
        def run() -> int:
            seeds = Streams(next(numbers)).episode_seeds("benchmark", 0, BLOCK * cores)
            return sum(map(len, rollout(env_id, policy, seeds, rng_seed=0, workers=cores)))

        return run

    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):  # as in `rollout`: the same workers go on
        parallel = joblib.Parallel(n_jobs=cores, max_nbytes=None)

    def worlds_alone() -> int:
        return sum(parallel(joblib.delayed(bare_steps)(env_id, bare) for _ in range(cores)))

    ways = {
        "OSRL": osrl_episodes,
        "published": ours(policy_of("published", spec)),
        "small": ours(policy_of("small", spec)),
        "bare": worlds_alone,
    }
    return in_turns(f"evaluation, {env_id}, {cores} cores", ways, rounds)


def installed(env_id: str) -> bool:
    """Whether its world can be built."""
    try:
        env: SafeEnv = registry.make(env_id)
    except UsageError as error:
        print(f"{env_id} left out: {error}")
        return False
    env.close()
    return True


def ratio(reference: Reading, other: Reading, *, processor: bool = False) -> float:
    """How many times as much the other does in a second, median over rounds."""
    times = [
        np.array(reading.processor if processor else reading.clock) / np.array(reading.amount)
        for reading in (reference, other)
    ]
    return float(np.median(times[0] / times[1]))


def load(readings: list[Reading]) -> str:
    """What else was going on."""
    return f"load {readings[0].load[0]:.1f} to {readings[0].load[1]:.1f}"


def page(sections: list[list[Reading]], machine: Mapping[str, Any], command: str) -> str:
    """The results as Markdown."""
    flops = flops_a_sample(PRESETS["published"])
    lines = [
        "# Offline speed: training and evaluation beside OSRL",
        "",
        f"`{command}` at commit {machine['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"torch {machine['torch']}. Load is the machine's load average before and after the rounds of a section;",
        f"above {machine['cores']} the machine was shared, and ratios say more than rates.",
        "What is measured, and how, says the head of `benchmarks/offline_speed.py`; every reading is in the JSON.",
        "",
        "## Training",
        "",
        "| | samples/s | beside OSRL, clock | beside OSRL, processor time | of the float32 product's peak |",
        "|---|---|---|---|---|",
    ]
    for readings in (section for section in sections if section[0].what.startswith("training")):
        peak = 2.0 * 2048**3 * readings[-1].processor_rate
        what = f"**{readings[0].what.removeprefix('training, ')}**"
        lines.append(f"| {what}, peak {peak / 1e9:.0f} GFLOP a processor second, {load(readings)} | | | | |")
        for reading in readings[:-1]:
            share = f"{reading.processor_rate * flops / peak:.0%}" if reading.way != "OSRL" else ""
            lines.append(
                f"| {reading.way} | {reading.rate:,.0f} | {ratio(readings[0], reading):.2f} "
                f"| {ratio(readings[0], reading, processor=True):.2f} | {share} |"
            )
    lines += ["", "## Evaluation", ""]
    lines += [
        "| | steps/s | beside OSRL, clock | beside OSRL, processor time | of the bare worlds |",
        "|---|---|---|---|---|",
    ]
    for readings in (section for section in sections if section[0].what.startswith("evaluation")):
        what = readings[0].what.removeprefix("evaluation, ")
        lines.append(f"| **{what}**, {load(readings)} | | | | |")
        for reading in readings:
            # workers have processor time of their own, which is not counted
            own = f"{ratio(readings[0], reading, processor=True):.2f}" if what.endswith(" 1 cores") else ""
            lines.append(
                f"| {reading.way} | {reading.rate:,.0f} | {ratio(readings[0], reading):.2f} | {own} "
                f"| {ratio(readings[-1], reading):.0%} |"
            )
    return "\n".join([*lines, ""])


def machine_now() -> dict[str, Any]:
    """Where this runs."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "commit": commit.stdout.strip(),
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measures, and writes the page and the readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osrl", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds, batch 256 and one core alone")
    arguments = parser.parse_args()
    machine, module = machine_now(), osrl_peer.osrl(arguments.osrl)
    cores, rounds = machine["cores"], 2 if arguments.quick else arguments.rounds
    several = [1] if arguments.quick or cores == 1 else [1, cores]
    command = f"python benchmarks/offline_speed.py --osrl CHECKOUT --rounds {rounds}"
    command += " --quick" if arguments.quick else ""
    worlds = [env_id for env_id in WORLDS if installed(env_id)]
    plan: list[Callable[[], list[Reading]]] = [partial(training, module, n, 256, rounds) for n in several]
    plan += [partial(evaluation, module, env_id, n, rounds) for n in reversed(several) for env_id in worlds]
    if not arguments.quick:
        plan += [partial(training, module, n, 2048, rounds) for n in several]
    sections: list[list[Reading]] = []
    for measure in plan:  # the record is written after every section, so that an interrupted run leaves what it has
        sections.append(measure())
        text = page(sections, machine, command)
        if arguments.out is not None:
            arguments.out.with_suffix(".md").write_text(text)
            readings = [asdict(reading) for section in sections for reading in section]
            record = {"command": command, "machine": machine, "readings": readings}
            arguments.out.with_suffix(".json").write_text(json.dumps(record) + "\n")
    print(text)


if __name__ == "__main__":
    main()
