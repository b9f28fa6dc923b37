"""`safehold doctor`: what this machine has, and what is missing for what."""

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from safehold import __version__
from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import ResourceError

_NEEDED = (
    "numpy", "scipy", "torch", "gymnasium", "h5py", "safetensors", "pydantic", "tyro", "rich", "jinja2", "matplotlib",
    "joblib", "jaxtyping",
)  # fmt: skip

_EXTRAS = {
    "mujoco": (("mujoco",), "the velocity tasks", "pip install 'safehold[mujoco]'"),
    "bullet": (("pybullet", "bullet_safety_gym"), "the bullet tasks", "make bullet"),
    "navigation": (("safety_gymnasium", "xmltodict"), "the navigation tasks", "make navigation"),
}
"""Extra -> the packages it brings, what they are for, how to install them."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A package: its version, or None where it is missing, and what it is for."""

    name: str
    version: str | None
    purpose: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Health:
    """What `doctor` found."""

    safehold: str
    python: str
    platform: str
    cores: int
    torch_threads: int
    devices: tuple[str, ...]
    free_disk_gigabytes: float
    packages: tuple[Installed, ...]

    @property
    def missing(self) -> tuple[Installed, ...]:
        """Needed packages that are not there; extras may be missing."""
        return tuple(p for p in self.packages if p.version is None and p.name in _NEEDED)


def examine() -> Health:
    """Looks at the interpreter, the packages and the devices; changes nothing but torch's thread count."""
    packages = [Installed(name, _version(name), "needed", "pip install safehold") for name in _NEEDED]
    for extra, (names, purpose, remedy) in _EXTRAS.items():
        packages += [Installed(name, _version(name), f"extra [{extra}]: {purpose}", remedy) for name in names]
    threads = 0
    devices: tuple[str, ...] = ("cpu",)
    if _version("torch") is not None:
        threads = one_torch_thread()
        devices = (*devices, *_accelerators())
    return Health(
        safehold=__version__,
        python=f"{sys.version.split()[0]} ({sys.executable})",
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch_threads=threads,
        devices=devices,
        free_disk_gigabytes=round(shutil.disk_usage(os.getcwd()).free / 1e9, 1),
        packages=tuple(packages),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerators() -> tuple[str, ...]:
    import torch

    return tuple(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))


def run(_arguments: Arguments, output: Output) -> int:
    """Prints the findings; 0 if everything that is needed is there."""
    health = examine()
    facts = (
        ("safehold", health.safehold),
        ("python", health.python),
        ("platform", health.platform),
        ("cores", str(health.cores)),
        ("torch threads", f"{health.torch_threads} (safehold's default: small networks run fastest on one)"),
        ("devices", ", ".join(health.devices)),
        ("free disk here", f"{health.free_disk_gigabytes} GB"),
    )
    output.table("This machine", ("what", "value"), facts)
    output.say("")
    rows = [
        (p.name, p.version or "missing", p.purpose + ("" if p.version else f"; {p.remedy}")) for p in health.packages
    ]
    output.table("Packages", ("package", "version", "for"), rows)
    output.say("")
    lacking = [p.name for p in health.missing]
    output.say(f"Missing: {', '.join(lacking)}." if lacking else "Everything that safehold needs is here.")
    output.result({**{name: getattr(health, name) for name in Health.__slots__}, "ok": not lacking})
    return ResourceError.exit_code if lacking else 0


COMMANDS = {"": Command(Arguments, run)}
