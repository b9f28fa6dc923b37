"""Whole episodes of one policy in one world, one a seed: the only place where a return is produced."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import joblib
import numpy as np
from jaxtyping import Float
from joblib.externals.loky.process_executor import TerminatedWorkerError

from safehold.core.env import SafeEnv
from safehold.core.episode import Episode
from safehold.core.errors import EnvironmentFault, ModelError, UsageError
from safehold.core.policy import Policy
from safehold.core.spec import Discrete, TaskSpec
from safehold.envs import registry
from safehold.envs.adapter import Task, named_costs
from safehold.rollout.recorder import LockstepRecorder

BLOCK = 10
"""Episodes that run in lockstep. Part of the results: a policy's arithmetic and noise go by blocks."""


@dataclass(frozen=True, slots=True)
class Job:
    """Episodes of one policy: one a reset seed."""

    policy: Policy
    seeds: tuple[int, ...]


def rollout(
    env_id: str,
    policy: Policy,
    seeds: Sequence[int],
    *,
    rng_seed: int,
    workers: int = 1,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """One episode a reset seed, in the order of `seeds`.

    Episodes run in blocks of `BLOCK`, cut by position in `seeds`. The policy's noise comes from a generator of
    `rng_seed` and the block's seeds. A block runs in one process on one thread, so the result is the same, bit
    for bit, for any number of `workers`. `on_episode` is called in the caller's process, in the order of `seeds`,
    as blocks are done.

    Raises:
        UsageError: if `seeds` is empty, repeats a seed or holds a negative one, or `workers` is below 1.
        EnvironmentFault: if a world breaks its contract or a worker process dies; no episode is returned then.
        ModelError: if the policy hands out an impossible action.
    """
    jobs = [Job(policy, tuple(int(seed) for seed in seeds))]
    return rollouts(env_id, jobs, rng_seed=rng_seed, workers=workers, on_episode=on_episode)[0]


def rollouts(
    env_id: str,
    jobs: Sequence[Job],
    *,
    rng_seed: int,
    workers: int = 1,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[list[Episode]]:
    """`rollout` for several policies, their blocks spread over the same workers; one list of episodes a job.

    A job's episodes do not depend on the other jobs. Raises as `rollout` does; seeds are distinct over all jobs.
    """
    registry.task(env_id)
    if workers < 1:
        raise UsageError(f"workers is {workers}; rollouts need at least one process")
    _check_seeds([job.seeds for job in jobs], rng_seed)
    blocks = [(place, job.policy, block) for place, job in enumerate(jobs) for block in _blocks(job.seeds)]
    episodes: list[list[Episode]] = [[] for _ in jobs]
    with contextlib.closing(_run_blocks(env_id, [block[1:] for block in blocks], rng_seed, workers)) as done:
        for (place, _, _), block in zip(blocks, done, strict=True):
            for episode in block:
                episodes[place].append(episode)
                if on_episode is not None:
                    on_episode(episode)
    return episodes


def executed_actions(actions: np.ndarray, task: TaskSpec, n: int, policy: Policy) -> Float[np.ndarray, "n a"]:
    """What the worlds are given and the episode records: float32, moved to the nearest allowed action.

    Raises:
        ModelError: naming the policy, for a wrong shape, a value that is not finite, or no index of a discrete action.
    """
    given = np.asarray(actions)
    if given.shape != (n, task.action.size):
        raise ModelError(
            f"{task.env_id}: policy {policy!r} gave actions of shape {given.shape}, expected {(n, task.action.size)}"
        )
    if not np.isfinite(given).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(given))[0])
        raise ModelError(
            f"{task.env_id}: policy {policy!r} gave action[{row}, {column}] = {given[row, column]}, expected a finite "
            "number; look for a division by zero or a diverged training run in the policy"
        )
    if isinstance(task.action, Discrete):
        if not np.isin(given, np.arange(task.action.n)).all():
            raise ModelError(f"{task.env_id}: policy {policy!r} gave {given.ravel()}, expected 0..{task.action.n - 1}")
        return given.astype(np.float32)
    return task.action.clip(given.astype(np.float32))


def _check_seeds(seeds_of_jobs: Sequence[tuple[int, ...]], rng_seed: int) -> None:
    if not seeds_of_jobs or not all(seeds_of_jobs):
        raise UsageError("no seeds: a rollout of no episodes measures nothing; give one reset seed an episode")
    whole = [seed for seeds in seeds_of_jobs for seed in seeds]
    if min(whole) < 0 or rng_seed < 0:
        raise UsageError(f"seeds are integers >= 0, got {min(*whole, rng_seed)}")
    if len(set(whole)) != len(whole):
        repeated = next(seed for place, seed in enumerate(whole) if seed in whole[:place])
        raise UsageError(
            f"seed {repeated} stands twice in seeds; episodes count as independent, so give each its own reset seed"
        )


def _blocks(seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [seeds[start : start + BLOCK] for start in range(0, len(seeds), BLOCK)]


def _run_blocks(
    env_id: str, blocks: Sequence[tuple[Policy, tuple[int, ...]]], rng_seed: int, workers: int
) -> Generator[list[Episode], None, None]:
    """Blocks in order; worker processes stay alive for the next call."""
    workers = min(workers, len(blocks))
    if workers == 1:
        for policy, seeds in blocks:
            yield run_block(env_id, policy, seeds, rng_seed)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator", batch_size=1, max_nbytes=None)
    try:
        yield from parallel(joblib.delayed(run_block)(env_id, policy, seeds, rng_seed) for policy, seeds in blocks)
    except TerminatedWorkerError as error:
        raise EnvironmentFault(
            f"{env_id}: a worker process died (killed, out of memory, or crashed in native code) during "
            f"{len(blocks)} blocks from seed {blocks[0][1][0]} on; run again with workers=1 to see where"
        ) from error


def run_block(env_id: str, policy: Policy, seeds: tuple[int, ...], rng_seed: int) -> list[Episode]:
    """One block in this process: worlds in lockstep, each until its own end.

    The actor keeps all n rows throughout. The row of an ended episode shows its last observation, its action is
    not executed, and the actor observes reward 0 and cost 0 for it, because nothing happens there any more.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([rng_seed, *seeds])))
    with _one_torch_thread(), _borrowed_worlds(registry.task(env_id), len(seeds)) as envs:
        return _lockstep(envs, policy, seeds, rng)


def _lockstep(envs: list[SafeEnv], policy: Policy, seeds: tuple[int, ...], rng: np.random.Generator) -> list[Episode]:
    task, n = envs[0].spec_of_task, len(envs)
    observations = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    recorder = LockstepRecorder(observations)
    actor = policy.start(n, rng)
    running, lengths, terminated = list(range(n)), [0] * n, [False] * n
    spent = np.zeros((n, len(task.cost_names)))
    while running:
        actions = executed_actions(actor.act(observations.copy()), task, n, policy)
        observations, given = observations.copy(), actions.copy()
        rewards, costs = np.zeros(n), np.zeros(spent.shape)
        for row in tuple(running):
            try:
                observations[row], rewards[row], ended, out_of_time, info = envs[row].step(given[row])
            except EnvironmentFault as fault:
                raise _with_costs_until_then(fault, task, spent[row]) from fault
            costs[row] = named_costs(info, task)
            lengths[row] += 1
            if ended or out_of_time:
                terminated[row] = ended
                running.remove(row)
        spent += costs
        recorder.append(actions=actions, rewards=rewards, costs=costs, observations=observations)
        actor.observe(actions.copy(), rewards.copy(), costs.copy())
    return recorder.episodes(seeds=seeds, lengths=lengths, terminated=terminated)


def _with_costs_until_then(fault: EnvironmentFault, task: TaskSpec, spent: np.ndarray) -> EnvironmentFault:
    """The fault, saying what the broken episode had cost: no measurement, but a lower bound worth keeping."""
    costs = ", ".join(f"{name} {value:g}" for name, value in zip(task.cost_names, spent, strict=True))
    return EnvironmentFault(f"{fault}; until then its costs were {costs}, a lower bound")


_idle_worlds: dict[Task, list[SafeEnv]] = {}  # building a world costs as much as hundreds of steps


@contextlib.contextmanager
def _borrowed_worlds(task: Task, n: int) -> Iterator[list[SafeEnv]]:
    """Worlds of a task, used ones if there are any; after an error they are closed and not used again."""
    idle = _idle_worlds.setdefault(task, [])
    envs: list[SafeEnv] = []
    try:
        while len(envs) < n:
            try:
                envs.append(idle.pop())
            except IndexError:
                envs.append(task.make())
        yield envs
    except BaseException:
        for env in envs:
            with contextlib.suppress(Exception):  # the first error is the one to report
                env.close()
        raise
    idle.extend(envs)


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """PyTorch on one thread, if the policy brought it: sums then do not depend on the number of cores."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
