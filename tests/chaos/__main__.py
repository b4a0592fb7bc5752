"""Small real sweeps, killed with -9 at random moments and started again until they are done; then checked.

python -m tests.chaos --kills 50 --seed 0 --scratch DIR [--victims command,actor,driver,worker,raylet,mlflow]

Prints a line for each kill and a verdict; exit code 1 where a check failed. DIR keeps all sweeps and their logs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from pathlib import Path

from tests.chaos.checks import query_differences, store_differences, table_differences, tracking_differences
from tests.chaos.hunt import Engines, Hunt, base_environment, cluster_leaks, engines
from tests.chaos.processes import adopt_orphans, bury, descendants, kill, wait_for
from tests.chaos.sweeps import SCENARIOS, VICTIMS, Command, Scenario, Victim
from trainables.storage.json_files import read_json, write_json

ORPHANS_TIMEOUT_S = 60.0
MLFLOW_LOCK = "db_init_lock-"
"""MLflow's server leaves this beside the temporary files however it ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios that the victims ask for; returns the exit code."""
    options = _options(arguments)
    started, chance = time.monotonic(), random.Random(options.seed)
    adopt_orphans()
    # Short, because Ray's sockets below it may not have more than 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    environment = base_environment(temporary)
    chosen = [scenario for scenario in SCENARIOS if scenario.own & set(options.victims)]
    problems, killed, sweeps = [], 0, 0
    for scenario, victims in zip(chosen, deal(chosen, options.victims, options.kills, chance), strict=True):
        _tell(f"scenario {scenario.name}: {len(victims)} kills")
        reference, seconds = undisturbed(scenario, options.scratch, environment)
        folder = options.scratch / scenario.name
        shutil.rmtree(folder, ignore_errors=True)
        with engines(scenario, environment, folder) as made:
            hunt = Hunt(scenario=scenario, engines=made, chance=chance, tell=_tell, seconds=seconds, number=killed)
            while True:
                out = folder / f"sweep{sweeps}"
                hunt.sweep(out, victims)
                sweeps += 1
                hunt.problems += [f"{out.name}: {text}" for text in _check(hunt, out, reference)]
                if not victims or hunt.problems:
                    break
            killed = hunt.number
            if hunt.drivers and not hunt.retried:
                hunt.problems.append(f"none of {hunt.drivers} kills of a driver struck a running fold")
            problems += [f"{scenario.name}/{text}" for text in (*hunt.problems, *_leaks(made))]
        problems += [f"{scenario.name}: left over: {text}" for text in _left_over(temporary)]
    for folder in (temporary, temporary.with_suffix(".torch")):
        shutil.rmtree(folder, ignore_errors=True)
    for problem in problems:
        _tell(f"FAILED: {problem}")
    verdict = f"{len(problems)} checks failed" if problems else "every check passed"
    _tell(f"{killed} kills over {sweeps} sweeps in {time.monotonic() - started:.0f} s: {verdict}")
    return 1 if problems else 0


def deal(
    scenarios: Sequence[Scenario], selected: Sequence[Victim], kills: int, chance: random.Random
) -> list[list[Victim]]:
    """Share the kills out: scenarios get equal numbers, and within one the victims take turns, shuffled."""
    hands: list[list[Victim]] = []
    for position, scenario in enumerate(scenarios):
        victims = [victim for victim in scenario.victims if victim in selected]
        number = kills // len(scenarios) + (position < kills % len(scenarios))
        hand = [victims[turn % len(victims)] for turn in range(number)]
        chance.shuffle(hand)
        hands.append(hand)
    return hands


def undisturbed(scenario: Scenario, scratch: Path, environment: dict[str, str]) -> tuple[Path, float]:
    """The same sweep, left alone, and its seconds; made once for all scenarios with it, its folds in Tune actors."""
    out = scratch / f"undisturbed-{SCENARIOS[[s.arguments for s in SCENARIOS].index(scenario.arguments)].name}"
    if not (out / "seconds.json").exists():
        started = time.monotonic()
        command = Command(arguments=scenario.arguments, out=out, environment=environment)
        code = command.process.wait()
        assert code == 0, f"the undisturbed sweep ends with {code}: {command.log.read_text()[-2000:]}"
        write_json(out / "seconds.json", {"seconds": time.monotonic() - started})
    return out, float((read_json(out / "seconds.json") or {})["seconds"])


def _check(hunt: Hunt, out: Path, reference: Path) -> Iterator[str]:
    """Everything about one finished sweep, and that the same command has nothing left to do."""
    yield from _second_run(hunt, out)
    yield from store_differences(out, reference)
    yield from query_differences(out, reference)
    yield from table_differences(out, reference)
    server = hunt.engines.server
    yield from tracking_differences(out, server.database if server else f"sqlite:///{out / 'mlflow.db'}", reference)


def _second_run(hunt: Hunt, out: Path) -> Iterator[str]:
    if hunt.engines.server is not None:
        hunt.engines.server.wait_until_ready()
    before = _report(out.with_suffix(".stdout"))
    command = Command(arguments=hunt.scenario.arguments, out=out, environment=hunt.engines.environment)
    code = command.process.wait(timeout=300)
    if code != 0:
        yield f"run again it ends with {code}"
    changed = list(unified_diff(before, _report(command.table), n=0))
    if changed:
        yield f"run again it prints another table: {changed[3:]}"
    if any("running" in line and " 0 running" not in line for line in command.said(command.spoken)):
        yield "run again it trains"


def _report(printed: Path) -> list[str]:
    """What a command printed on stdout, from the report on; the plan above it forecasts from what it finds."""
    lines = printed.read_text().splitlines()
    return lines[next((number for number, line in enumerate(lines) if line.startswith("# Report")), 0) :]


def _leaks(made: Engines) -> Iterator[str]:
    """Processes of commands that are over, and what a cluster still holds."""
    if made.nodes is not None and (held := cluster_leaks(made)):
        yield f"the cluster still holds {held}"

    def strays() -> list[str]:
        bury(except_for=dict.fromkeys(made.others()))
        others = made.others()
        return [process.words for process in descendants() if process.number not in others]

    if not wait_for(lambda: not strays(), timeout_s=ORPHANS_TIMEOUT_S, every_s=1.0):
        yield f"processes are left: {strays()}"


def _left_over(temporary: Path) -> Iterator[str]:
    """Processes and temporary files once the engines are gone too."""
    wait_for(lambda: not _living(), timeout_s=ORPHANS_TIMEOUT_S, every_s=1.0)
    for process in _living():
        yield f"process {process.words}"
        kill(process)
    for path in temporary.iterdir():
        if path.name.startswith(MLFLOW_LOCK):
            continue
        yield f"temporary {path.name}"
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _living() -> list[object]:
    bury(except_for={})
    return list(descendants())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the victims and of the moments")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the sweeps and their logs")
    names = ", ".join(f"{name}: {text}" for name, text in VICTIMS.items())
    parser.add_argument("--victims", type=lambda text: text.split(","), default=list(VICTIMS), help=names)
    options = parser.parse_args(arguments)
    unknown = set(options.victims) - set(VICTIMS)
    if unknown or options.kills < 1:
        parser.error(f"victims are {', '.join(VICTIMS)}; kills is 1 or more")
    options.scratch = options.scratch.absolute()
    return options


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
