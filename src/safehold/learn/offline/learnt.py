"""What an offline method leaves behind: networks with all that makes their weights mean something, saved and loaded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from torch import nn

from safehold.core.config import Config
from safehold.core.errors import DataError
from safehold.core.spec import TaskSpec
from safehold.learn.checkpoint import load_checkpoint, module_tensors, restore_module, save_checkpoint
from safehold.nn.randomness import OwnGenerator


@runtime_checkable
class ScalesLike(Protocol):
    """What stands between environment units and a network's."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        ...


ConfigOf = TypeVar("ConfigOf", bound=Config)
ScalesOf = TypeVar("ScalesOf", bound=ScalesLike)
NetworkOf = TypeVar("NetworkOf", bound=nn.Module)
LearntOf = TypeVar("LearntOf", bound="Learnt[Any, Any, Any]")


class Learnt(ABC, Generic[ConfigOf, ScalesOf, NetworkOf]):
    """A network, frozen, with its task, its configuration and its scales."""

    kind: ClassVar[str]
    """What its checkpoints call themselves."""
    config_type: ClassVar[type[Config]]

    def __init__(self, spec: TaskSpec, config: ConfigOf, scales: ScalesOf, network: NetworkOf) -> None:
        self.spec = spec
        self.config = config
        self.scales = scales
        self.network = network.eval().requires_grad_(requires_grad=False)

    @classmethod
    @abstractmethod
    def build(cls, spec: TaskSpec, config: ConfigOf) -> NetworkOf:
        """A network with fresh weights, drawn from torch's default generator."""

    @classmethod
    @abstractmethod
    def scales_of(cls, plain: Mapping[str, Any], spec: TaskSpec, config: ConfigOf) -> ScalesOf:
        """The scales that their `to_json` wrote.

        Raises:
            DataError: if something is missing, or does not fit the task.
        """

    def save(self, directory: Path, provenance: Mapping[str, Any]) -> str:
        """Writes it as a checkpoint and returns its digest; `provenance` says where it came from."""
        return save_checkpoint(
            directory,
            kind=self.kind,
            tensors=module_tensors(self.network, "model"),
            meta={**identity(self.spec, self.config, self.scales), "provenance": dict(provenance)},
        )

    @classmethod
    def load(cls: type[LearntOf], directory: Path, *, expected_digest: str | None = None) -> LearntOf:
        """What `save` wrote.

        Raises:
            IntegrityError: if bytes changed, or the checkpoint is not the pinned one.
            DataError: if it is of another method, or does not fit together.
        """
        checkpoint = load_checkpoint(directory, expected_digest=expected_digest)
        if checkpoint.kind != cls.kind:
            raise DataError(f"{directory}: expected a checkpoint of kind {cls.kind!r}, this is {checkpoint.kind!r}")
        try:
            spec = TaskSpec.of_json(checkpoint.meta["spec"])
            config = cls.config_type.model_validate(checkpoint.meta["config"])
            scales = cls.scales_of(checkpoint.meta["scales"], spec, config)
        except (KeyError, ValueError) as error:
            raise DataError(f"{directory}: {error}") from error
        with OwnGenerator(0).drawing():  # every weight is replaced below
            network = cls.build(spec, config)
        restore_module(network, checkpoint.tensors, "model")
        return cls(spec, config, scales, network)


def identity(spec: TaskSpec, config: Config, scales: ScalesLike) -> dict[str, Any]:
    """What makes weights mean something: the task, the configuration, the scales."""
    return {"spec": spec.to_json(), "config": config.to_json(), "scales": scales.to_json()}


def require_identity(meta: Mapping[str, Any], spec: TaskSpec, config: Config, scales: ScalesLike) -> None:
    """Refuses the saved state of another training.

    Raises:
        DataError: naming what differs.
    """
    for name, own in identity(spec, config, scales).items():
        if meta[name] != own:
            raise DataError(
                f"the saved {name} differs from that of this run; resume with the same dataset and configuration"
            )
