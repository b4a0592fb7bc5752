"""Makes the folder of an interrupted sweep, tests/fixtures/interrupted_sweep, and unpacks copies of it.

    python -m tests.support.interrupted_sweep --scratch DIR

The sweep is real, and so are its ends: the command is killed with -9 while MLflow has few runs, the worker of one fold
is killed as often as the fold has attempts, the pruner stops a fold, and the command is killed again in the middle of
one. What is changed afterwards: Ray's own folder is left out, which the next command removes anyway; in leases, error
texts and MLflow's addresses, paths, machine and host of the maker become neutral words.

`expected.json` says how that folder stands, and how it stands once today's code has resumed a copy to its end, or has
retried the failed fold of another copy and resumed that one. A new trainer version gets a second fixture beside this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.chaos.processes import adopt_orphans, descendants, kill, wait_for
from tests.support import sweep_folder

FIXTURE = sweep_folder.REPOSITORY / "tests" / "fixtures" / "interrupted_sweep"
ARCHIVE = FIXTURE / "sweep.tar.xz"
EXPECTED = FIXTURE / "expected.json"

SWEEP = (
    "sweep", "--benchmark", "icons", "--method", "vl2v_adip", "--space", "demo", "--trials", "3", "--seeds", "2",
    "--pruner", "asha", "--max-concurrent", "1", "--max-failures", "1", "--teacher-mode", "views:1", "-y",
    "sweep.audit_share=0", "sweep.search_seed=2", "student=test_efficientnet", "student_weights=random",
    "teacher=demo", "image_size=32", "image_weight=0.3", "dropout=0.1", "batch_size_per_domain=8", "evaluate_every=9",
    "eval_batch_size=64", "align.lr=0.01", "align.num_steps=30", "distill.lr=0.004", "distill.num_steps=45",
    "swad.num_converge=2", "swad.num_tolerate=2",
)  # fmt: skip
"""The command that was interrupted, and that resumes a copy."""

PLACE = "/interrupted-sweep"
"""What MLflow's addresses in the archive say in place of the folder that it is unpacked to."""

FAILING = "icons--vl2v_adip--render3d"
"""The fold group whose second trial fails."""
MID_STAGE = 27
"""The evaluation of Distill at which the command is killed: behind the pruner's last look."""
LONG_AGO = 1_577_836_800.0
"""The last time of change in the archive, in Unix seconds: a lease's is its heartbeat, which is old by every clock."""
PATIENCE_S = 900.0


def unpacked(out: Path) -> Path:
    """Unpack the folder, times of change included, and tell its MLflow where it lies now."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(out, filter="data")
    _move_artifacts(out / "mlflow.db", PLACE, str(out.resolve()))
    return out


def expected() -> dict[str, Any]:
    """How the folder stands, and how it ends."""
    content: dict[str, Any] = json.loads(EXPECTED.read_text())
    return content


def standing(out: Path) -> dict[str, Any]:
    """A folder's folds, what `status` counts, and the table."""
    return {"folds": sweep_folder.folds(out), "status": sweep_folder.status(out), "table": sweep_folder.table(out)}


def interrupt(out: Path) -> None:
    """Run the sweep, and leave it with a fold done, failed, pruned and in mid-stage each, and MLflow behind."""
    with _killed_in_the_end(out) as first:
        _await(first, lambda: _whole_runs(out / "mlflow.db") >= 2, "two folds in MLflow")
    with _killed_in_the_end(out, "--tracking", "later") as second:
        _fail(out, second)
        _await(second, lambda: _prunings(out) and _reached(out), "a fold pruned, and another one in mid-stage")


@contextmanager
def _killed_in_the_end(out: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The sweep as a process that is killed, with all that it started, at the end of the block."""
    with out.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sweep_folder.PROGRAM, *SWEEP, "--out", out, *more], stdout=log, stderr=log,
            env=sweep_folder.environment(), cwd=out.parent, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        while living := descendants():
            for descendant in living:
                kill(descendant)
        process.wait()


def _await(command: subprocess.Popen[bytes], condition: Callable[[], object], what: str) -> None:
    came = wait_for(lambda: command.poll() is not None or bool(condition()), timeout_s=PATIENCE_S, every_s=0.01)
    if not came or command.poll() is not None:
        raise SystemExit(f"the sweep ended, or {PATIENCE_S:.0f} s passed, before there was {what}")


def _fail(out: Path, command: subprocess.Popen[bytes]) -> None:
    """Kill the worker of one fold twice: its attempts are then used up."""
    killed: set[int] = set()

    def strike() -> bool:
        for trial in out.glob(f"trials/{FAILING}/1.json"):
            folder = out / "folds" / json.loads(trial.read_text())["folds"][0]["key"]
            worker = _json(folder / "worker.json").get("process")
            if worker is not None and worker not in killed and (folder / "journal.jsonl").exists():
                os.kill(worker, 9)
                killed.add(worker)
            return bool(_json(folder / "error.json").get("failed"))
        return False

    _await(command, strike, "a fold without attempts")


def _whole_runs(database: Path) -> int:
    """Runs of folds that MLflow has all of."""
    whole = "SELECT run_uuid FROM tags WHERE key = 'record_version' AND value != ''"
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            found = f"SELECT count(*) FROM tags WHERE key = 'kind' AND value = 'trial' AND run_uuid IN ({whole})"
            return int(connection.execute(found).fetchone()[0])
    except sqlite3.OperationalError:
        # There is no database yet, or no table.
        return 0


def _prunings(out: Path) -> list[Path]:
    return list(out.glob("folds/*/pruned.json"))


def _reached(out: Path) -> bool:
    """Whether a fold that nobody pruned has a checkpoint as far as that."""
    for checkpoint in out.glob("folds/*/checkpoint.pt"):
        lines = [json.loads(line) for line in (checkpoint.parent / "journal.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if (line["kind"], line["stage"]) == ("evaluation", "distill")]
        if max(steps, default=0) >= MID_STAGE and not (checkpoint.parent / "pruned.json").exists():
            return True
    return False


def _json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return content


def neutralise(out: Path) -> None:
    """Take the maker's machine and paths out of a folder.

    Raises:
        SystemExit: something of them is left.
    """
    shutil.rmtree(out / "ray", ignore_errors=True)
    words = _words_of_this_machine(out)
    for file in (file for file in out.rglob("*.json*") if file.is_file()):
        before, times = file.read_text(), file.stat()
        text = re.sub(r"\bip: [0-9.]+", "ip: 192.0.2.1", before)
        text = re.sub(r'"branch": "[^"]*"', '"branch": "main"', text)
        for word, neutral in words.items():
            text = text.replace(word, neutral)
        if text != before:
            file.write_text(text)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    for place in (out.resolve(), out.resolve().parent):
        _move_artifacts(out / "mlflow.db", str(place), PLACE)
    files = [file for file in out.rglob("*") if file.is_file()]
    if left := [(file, word) for file in files for word in words if word.encode() in file.read_bytes()]:
        raise SystemExit(f"the folder still tells of this machine: {left}")


def _words_of_this_machine(out: Path) -> dict[str, str]:
    owner = _json(out / "lease.json")
    return {
        str(out.resolve()): PLACE,
        str(out.resolve().parent): PLACE,
        str(sweep_folder.REPOSITORY): "/repository",
        sysconfig.get_path("purelib"): "/site-packages",
        sys.prefix: "/python",
        owner["machine"]: "a boot of another machine",
        f'"host": "{owner["host"]}"': '"host": "another-machine"',
        platform.platform(): "Linux",
    }


def _move_artifacts(database: Path, old: str, new: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        for what, name in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(f"UPDATE {what} SET {name} = replace({name}, ?, ?)", (old, new))
    connection.execute("VACUUM")
    connection.close()


def pack(out: Path) -> None:
    """Write the archive: files by name, their owners left out, their times of change as far apart as they were."""
    files = sorted(out.rglob("*"))
    newest = max(file.stat().st_mtime for file in files)

    def aged(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime += LONG_AGO - newest
        return member

    FIXTURE.mkdir(parents=True, exist_ok=True)
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for file in files:
            archive.add(file, str(file.relative_to(out)), recursive=False, filter=aged)


def expectation(scratch: Path) -> dict[str, Any]:
    """Say how the folder stands, and let copies end."""
    interrupted = unpacked(scratch / "interrupted")
    found = sweep_folder.folds(interrupted)
    states = {fold["state"]: key for key, fold in found.items()}
    if missing := {"done", "failed", "pruned", "in mid-stage"} - states.keys():
        raise SystemExit(f"no fold is {', '.join(sorted(missing))}: give the sweep another search_seed")
    content = {
        "torch": version("torch"),
        "machine": platform.machine(),
        "trainer_version": _json(interrupted / "sweep.json")["trainer_version"],
        "one_image": dict(_one_image(interrupted)),
        "tracked": sweep_folder.tracked(interrupted),
        "interrupted": standing(interrupted),
        "explanations": {key: sweep_folder.explanation(interrupted, key) for key in states.values()},
    }
    resumed = unpacked(scratch / "resumed")
    _end(resumed, *SWEEP, code=3)
    retried = unpacked(scratch / "retried")
    _end(retried, "retry", code=0)
    _end(retried, *SWEEP, code=0)
    return {**content, "resumed": standing(resumed), "retried": standing(retried)}


def _end(out: Path, *words: str, code: int) -> None:
    done = sweep_folder.run(out, *words)
    if done.returncode != code:
        raise SystemExit(f"{words[0]} ended with {done.returncode}, not {code}: {done.stderr[-2000:]}")


def _one_image(out: Path) -> Iterator[tuple[str, float]]:
    """By test domain, what one image is of the accuracy there."""
    for file in sorted(out.glob("folds/*/test.json")):
        yield from ((domain, 1.0 / count) for domain, count in _json(file)["num_images"].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder to work in")
    scratch = parser.parse_args().scratch.resolve()
    scratch.mkdir(parents=True)
    adopt_orphans()
    interrupt(scratch / "sweep")
    neutralise(scratch / "sweep")
    pack(scratch / "sweep")
    EXPECTED.write_text(json.dumps(expectation(scratch), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
