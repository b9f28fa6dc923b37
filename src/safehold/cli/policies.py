"""A trained policy from its checkpoint, for the task that it was trained on and no other."""

from dataclasses import dataclass
from pathlib import Path

from safehold.core.errors import DataError
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.spec import TaskSpec
from safehold.envs import registry


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """What the checkpoint holds, and the digest that names its bytes."""

    policy: Policy | PolicyFamily
    digest: str


def load_for(directory: Path, task: str) -> LoadedPolicy:
    """The policy in a checkpoint, to be run in this environment. Imports torch.

    Raises:
        UsageError: if there is no such environment.
        IntegrityError: if bytes of the checkpoint changed.
        DataError: if it holds no policy, or one that was trained on a task of another shape, or does not say on which.
    """
    wanted = registry.spec(task)
    from safehold.learn.checkpoint import load_checkpoint
    from safehold.learn.guided import guide
    from safehold.workflows.train import load

    checkpoint = load_checkpoint(directory)
    if "spec" not in checkpoint.meta:
        raise DataError(
            f"{directory} holds a {checkpoint.kind!r} that does not say which task it was trained on; name a policy as "
            "`safehold train` leaves it in OUT/policy"
        )
    _check_same(TaskSpec.of_json(checkpoint.meta["spec"]), wanted, directory)
    read = guide.load_guide if checkpoint.kind == guide.KIND else load
    return LoadedPolicy(read(directory, expected_digest=checkpoint.digest), checkpoint.digest)


def _check_same(trained: TaskSpec, wanted: TaskSpec, directory: Path) -> None:
    """Sizes, bounds, horizon and costs must agree; names may differ, a log does not always know its task."""
    name = trained.difference(wanted)
    if name is not None:
        theirs, ours = getattr(trained, name), getattr(wanted, name)
        raise DataError(
            f"{directory} was trained on {trained.env_id!r} with {name} {theirs}; {wanted.env_id!r} has {ours}. "
            "Run it in the environment it was trained for"
        )
