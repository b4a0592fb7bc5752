"""A sweep's folder seen from outside: by the command line, by the files that users keep, and by an MLflow client."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROGRAM = Path(sys.executable).with_name("vl2v-orchestrate")

SAME_ARITHMETIC = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""Torch, oneDNN and MKL then take the same code paths on every x86 processor of the last ten years."""

KEPT = ("spec.json", "journal.jsonl", "result.json", "test.json", "student.safetensors")
"""What a finished fold keeps."""

ROUNDING = 1e-9

FOREIGN = ("MLFLOW_", "RAY_", "VL2V_")
"""Beginnings of environment variables that would send a command elsewhere."""


def environment() -> dict[str, str]:
    """The environment of a command: this checkout's code, a local Ray, the CPU, the folder's own MLflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    return {**kept, **own, **SAME_ARITHMETIC}


def run(out: Path, *words: str, timeout_s: float = 900.0) -> subprocess.CompletedProcess[str]:
    """Run a command of the program on a folder, whatever its exit code."""
    return subprocess.run(
        [PROGRAM, *words, "--out", out], capture_output=True, text=True, env=environment(), cwd=out.parent,
        timeout=timeout_s, check=False,
    )  # fmt: skip


def answer(out: Path, *words: str) -> Any:
    """What a command prints with `--json`."""
    done = run(out, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def status(out: Path) -> dict[str, Any]:
    """By fold group: its counts, its best trial and that trial's accuracy."""
    groups = answer(out, "status")["groups"]
    return {
        group["name"]: {**group["counts"], "best": group["best"], "accuracy": group["accuracy"]} for group in groups
    }


def table(out: Path) -> dict[str, Any]:
    """What `report` prints: by method and test domain the accuracy of each seed, outside and inside the sources."""
    (found,) = answer(out, "report")["tables"]
    return {
        row["method"]: {
            kind: {domain: cell["by_seed"] for domain, cell in row[kind].items() if domain != "average"}
            for kind in ("ood", "id")
        }
        for row in found["rows"]
    }


def table_differences(found: dict[str, Any], wanted: dict[str, Any], one_image: dict[str, float]) -> Iterator[str]:
    """Cells of a table, seed by seed, that are more than one image of their domain apart, or on one side only."""
    these, those = dict(cells(found)), dict(cells(wanted))
    for name in sorted(these.keys() | those.keys()):
        one, other = these.get(name), those.get(name)
        if _are_apart(one, other, one_image[name[2]]):
            yield f"{' '.join(map(str, name))}: {one}, not {other}"


def cells(found: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str, int], float | None]]:
    """A table's accuracies by method, kind, test domain and seed."""
    for method, kinds in found.items():
        for kind, domains in kinds.items():
            for domain, by_seed in domains.items():
                yield from (((method, kind, domain, seed), value) for seed, value in enumerate(by_seed))


def explanation(out: Path, key: str) -> dict[str, Any]:
    """What `explain` says of a fold, apart from words and times."""
    told = answer(out, "explain", key)
    return {
        "name": told["name"],
        "uses": [[use["group"], use["trial"], use["source"]] for use in told["uses"]],
        "state": told["state"]["state"],
        "failed_attempts": told["state"]["failed_attempts"],
        "decisions": [[one["rule"], one["verdict"], one["step"], one["value"]] for one in told["decisions"]],
        "chosen": {group: choice["chosen"] for group, choice in told["choices"].items()},
    }


def folds(out: Path) -> dict[str, dict[str, Any]]:
    """Every fold that was written down, by key: its group, trial, seed, state and the SHA-256 of its student."""
    found: dict[str, dict[str, Any]] = {}
    for record in _records(out):
        for planned in record["folds"]:
            key = planned["key"]
            about = {"group": record["group"], "trial": record["number"], "seed": planned["fold"]["seed"]}
            found.setdefault(key, {**about, **_standing(out / "folds" / key)})
    return dict(sorted(found.items()))


def finished_files(out: Path) -> dict[str, tuple[int, str]]:
    """Time of change and SHA-256 of every file that a finished fold or Align stage keeps, and of stored answers."""
    finished = [result.parent for result in out.glob("*/*/result.json") if result.parts[-3] in ("folds", "aligns")]
    files = [folder / name for folder in finished for name in KEPT if (folder / name).exists()]
    files += out.glob("embeddings/*/*.arrow")
    return {str(file.relative_to(out)): (file.stat().st_mtime_ns, sha256(file)) for file in sorted(files)}


def tracked(out: Path) -> list[tuple[str, str]]:
    """Key and status of every run of a fold in the folder's MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, filter_string="tags.kind = 'trial'", max_results=1000)
    return sorted((run.data.tags["key"], run.info.status) for run in runs)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _records(out: Path) -> Iterator[dict[str, Any]]:
    for pattern in ("trials/*/*.json", "confirmations/*.json"):
        yield from (json.loads(file.read_text()) for file in sorted(out.glob(pattern)))


def _standing(folder: Path) -> dict[str, Any]:
    student = folder / "student.safetensors"
    return {"state": _state(folder), "student": sha256(student) if student.exists() else ""}


def _state(folder: Path) -> str:
    failures = folder / "error.json"
    if failures.exists() and json.loads(failures.read_text())["failed"]:
        return "failed"
    if (folder / "result.json").exists():
        return "done"
    if (folder / "pruned.json").exists():
        return "pruned"
    return "in mid-stage" if (folder / "checkpoint.pt").exists() else "waiting"


def _are_apart(one: float | None, other: float | None, most: float) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > most + ROUNDING
