"""`safehold train`: a policy from logged episodes alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import PositiveInt, create_model

from safehold.cli.arguments import Arguments, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_directory, resumable_training
from safehold.cli.settings import from_file, value_of
from safehold.cli.threads import one_torch_thread
from safehold.core.config import Config
from safehold.learn.hooks import Progress
from safehold.learn.place import Device, joined
from safehold.workflows.train import METHODS, preset, train


class TrainArguments(Arguments):
    """What training by any method takes."""

    data: Path
    """File of logged episodes."""
    out: Path
    """Directory to make; the policy comes to lie in OUT/policy."""
    seed: Seed = 0
    """Seed of weights and batches."""
    preset: str = "small"
    """Where the settings below start from: "small" (minutes), "published"; for cdt "osrl", for cdt and bc "long"."""
    settings: Path | None = None
    """TOML file of settings; it goes above the preset and below the flags."""
    checkpoint_every: PositiveInt = 1000
    """Gradient steps between two checkpoints."""
    resume: bool = False
    """Go on from the newest checkpoint in OUT."""


class CDTArguments(TrainArguments):
    """Arguments of `train cdt`."""

    device: Device = "cpu"
    """Where to train; several processes, on several GPUs or cores, share a batch if torchrun starts them:
    torchrun --nproc-per-node 2 -m safehold train cdt ..."""


ARGUMENTS: Mapping[str, type[TrainArguments]] = {"cdt": CDTArguments}
"""What a method takes besides its settings, where that is more than all take."""


def _arguments(method: str, start: Config) -> type[TrainArguments]:
    """The arguments of a method's verb, with these settings as defaults."""
    kind, base = METHODS[method].config, ARGUMENTS.get(method, TrainArguments)
    field: Any = (Annotated[kind, tyro.conf.arg(name="")], start)
    return create_model(f"{method}Arguments", __base__=base, __doc__=f"Arguments of `train {method}`.", method=field)


def _adapted(method: str) -> Callable[[Sequence[str]], type[TrainArguments]]:
    """The arguments with the defaults that preset and file say, so that every flag given goes above them."""

    def model(argv: Sequence[str]) -> type[TrainArguments]:
        start: Config = preset(method, value_of("--preset", argv) or "small")
        path = value_of("--settings", argv)
        return _arguments(method, start if path is None else from_file(start, Path(path)))

    return model


def _run(method: str) -> Callable[[Any, Output], int]:
    """What a method's verb does."""

    def run(arguments: Any, output: Output) -> int:
        out = resumable_training(arguments.out) if arguments.resume else free_directory(arguments.out)
        one_torch_thread()
        config = arguments.method
        device = arguments.device if isinstance(arguments, CDTArguments) else "cpu"
        with joined(device) as place, Narration(output) as narration:

            def show(progress: Progress) -> None:
                if progress.updates % 20 == 0 or progress.updates == config.steps:
                    narration.progress(f"training {method}", progress.updates, config.steps)

            trained = train(
                arguments.data,
                method,
                config,
                out,
                seed=arguments.seed,
                resume=arguments.resume or out.is_dir(),
                checkpoint_every=arguments.checkpoint_every,
                hooks=[show],
                place=place,
            )
        if not place.first:
            return 0
        output.result({"policy": trained.policy, "digest": trained.digest, "updates": trained.updates})
        output.say(f"{trained.policy}: {trained.updates} updates, digest {(trained.digest or '')[:16]}")
        return 0

    return run


COMMANDS = {name: Command(_arguments(name, preset(name, "small")), _run(name), _adapted(name)) for name in METHODS}
