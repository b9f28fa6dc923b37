"""`safehold explore`: learn online, under a limit, from nothing but the environment."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import create_model

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_directory, free_file
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import DataError, UsageError
from safehold.data import hdf5
from safehold.envs import registry
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.guided.abstraction import between
from safehold.learn.guided.guide import GuideConfig, save_guide
from safehold.learn.guided.student import StudentConfig
from safehold.learn.online.zoo import save_zoo
from safehold.workflows.explore import METHODS, ExploreConfig, Method, explore, guide_of, method_name


class ExploreArguments(Arguments):
    """Arguments of `explore`."""

    out: Path
    """Directory to make: a checkpoint of every snapshot, with what each earned and cost."""
    log: Path | None = None
    """File to make of the episodes that are met while learning, a log for offline training; one in `--log-every`."""
    settings: Annotated[ExploreConfig, tyro.conf.arg(name="")] = ExploreConfig()


def _arguments(method: Method) -> type[ExploreArguments]:
    """The arguments of one method, from its own defaults."""
    start = method.defaults
    kind: Any = (type(start.method), start.method)
    narrowed = create_model("ExploreConfig", __base__=ExploreConfig, __doc__=ExploreConfig.__doc__, method=kind)
    default = narrowed(**{name: getattr(start, name) for name in ExploreConfig.model_fields})
    field: Any = (Annotated[narrowed, tyro.conf.arg(name="")], default)
    return create_model("ExploreArguments", __base__=ExploreArguments, __doc__=ExploreArguments.__doc__, settings=field)


def run(arguments: ExploreArguments, output: Output) -> int:
    """Learns, keeps snapshots, prints them."""
    out = free_directory(arguments.out)
    config = arguments.settings
    if (arguments.log is None) != (config.log_every == 0):
        raise UsageError("--log says where the episodes go that --log-every keeps: give both, or neither")
    log = None if arguments.log is None else free_file(arguments.log, overwrite=False)
    registry.spec(config.env_id)
    if isinstance(config.method, GuideConfig):
        between(
            registry.task(config.env_id).parts, registry.task(config.method.target).parts
        )  # refused before learning
    guided_by = (
        {"guide": load_checkpoint(config.method.guide).digest} if isinstance(config.method, StudentConfig) else {}
    )
    one_torch_thread()
    updates, steps_per_update = 0, config.environments * config.steps_per_batch
    with Narration(output) as narration:

        def tick() -> bool:
            nonlocal updates
            updates += 1
            steps = min(updates * steps_per_update, config.total_steps)
            narration.progress("environment steps", steps, config.total_steps)
            return False

        found = explore(config, stop=tick)
    if out.is_dir():
        out.rmdir()  # empty: a checkpoint is renamed into its place and never written into a directory
    provenance = {
        "method": method_name(config.method),
        "config": config.to_json(),
        "curve": [asdict(point) for point in found.curve],
        **guided_by,
    }
    zoo = out / "zoo" if isinstance(config.method, GuideConfig) else out
    digest = save_zoo(zoo, env_id=config.env_id, policies=found.snapshots, provenance=provenance)
    left: dict[str, Any] = {"zoo": zoo, "digest": digest, "snapshots": [entry.name for entry in found.snapshots]}
    if isinstance(config.method, GuideConfig):
        target, place = registry.spec(config.method.target), out / "guide"
        said = {"zoo": digest, "config": config.to_json()}
        left |= {"guide": place, "guide_digest": save_guide(place, guide_of(found), target, said)}
    rows = [
        (entry.name, str(entry.step), *(f"{e.reward:.5g}, {e.cost:.4g}" for e in entry.evaluations))
        for entry in found.snapshots
    ]
    if log is not None:
        if found.log is None:
            raise DataError(f"no episode came to its end while learning, so there is no log; the zoo is in {zoo}")
        hdf5.write(log, found.log)
        output.say(f"{log}: {len(found.log)} episodes that were met while learning")
    output.result(left)
    columns = ("snapshot", "steps", "reward, cost without noise", "reward, cost with noise")
    output.table("Mean returns of snapshots", columns, rows)
    output.say(f"{zoo}: {len(found.snapshots)} snapshots, digest {digest[:16]}")
    return 0


COMMANDS = {name.replace("_", "-"): Command(_arguments(method), run) for name, method in METHODS.items()}
