"""`safehold envs`: which worlds there are, and whether one keeps its contract."""

from typing import Annotated

import tyro

from safehold.cli.arguments import Arguments, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.core.errors import EnvironmentFault
from safehold.envs import registry


class CheckArguments(Arguments):
    """Arguments of `envs check`."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Name of the environment, as in `safehold envs list`."""
    seed: Seed = 0
    """Seed of the random actions and of the resets."""


def listing(_arguments: Arguments, output: Output) -> int:
    """Prints every registered environment with its sizes and what its costs are."""
    specs = [registry.spec(name) for name in registry.list_envs()]
    output.result([spec.to_json() for spec in specs])
    output.table(
        "",
        ("environment", "observation", "action", "horizon", "one unit of cost"),
        [
            (s.env_id, str(s.observation_size), str(s.action.size), str(s.horizon), "; ".join(s.cost_units))
            for s in specs
        ],
    )
    return 0


def check(arguments: CheckArguments, output: Output) -> int:
    """Runs episodes of random actions; 5 if the environment breaks its contract."""
    from safehold.envs.checker import check_env

    findings = check_env(arguments.env, seed=arguments.seed)
    output.result({"environment": arguments.env, "findings": findings, "ok": not findings})
    for finding in findings:
        output.say(f"- {finding}")
    output.say(f"{arguments.env}: {len(findings)} fault(s)" if findings else f"{arguments.env} keeps its contract.")
    return EnvironmentFault.exit_code if findings else 0


COMMANDS = {"list": Command(Arguments, listing), "check": Command(CheckArguments, check)}
