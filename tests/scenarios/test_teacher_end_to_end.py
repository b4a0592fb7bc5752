"""The metered black box from command line to report: budgets, a teacher over HTTP, a store that sweeps share."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import run
from orchestrator.store.sweep_folder import open_store
from search_spaces.hyperparameters import fold_spec_from_mapping
from tests.support.killed_command import killed_at
from tests.support.teacher_process import NAME, TOKEN, served
from trainables.data.formats.open import resolve_benchmark
from trainables.data.formats.sample import write_sample
from trainables.jobs import FoldJob
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.http.wire import TOKEN_VARIABLE
from trainables.teacher.ledger import query_counts, reserved_queries
from trainables.worker import run_job

TINY = [
    "student=test_byobnet",
    "student_weights=random",
    "image_size=32",
    "batch_size_per_domain=4",
    "evaluate_every=2",
    "eval_batch_size=64",
    "align.num_steps=4",
    "distill.num_steps=4",
]

ZERO_SHOT, LIVE = 8 + 42 + 7, 2 * 5 * 4 + 7
"""Queries of a fold on two domains of 42 images: those it evaluates on, or two stages of 5 steps; and 7 texts each."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of two domains, `two`."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder, benchmarks=["PACS"], images_per_class=6)
    for domain in ("art_painting", "sketch"):
        shutil.copytree(folder / "PACS" / domain, folder / "two" / domain)
    return folder


@pytest.fixture(autouse=True)
def own_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def sweep_arguments(root: Path, out: Path, *more: str, teacher: str = NAME) -> list[str]:
    arguments = ["sweep", "--benchmark", "two", "--data-root", str(root), "--out", str(out), "-y", "--json"]
    return [*arguments, "--teacher", teacher, *more, *TINY]


def accuracies(out: Path) -> dict[str, Any]:
    """Every finished fold's numbers, by method and fold; keys differ where the teacher has another fingerprint."""
    found = {}
    for result in (json.loads(path.read_text()) for path in open_store(out).shared.glob("folds/*/result.json")):
        test = json.loads((open_store(out).folds.fold(result["key"]).test).read_text())
        name = f"{result['method']} {result['fold']['test_domains'][0]} {result['fold']['seed']}"
        found[name] = (result["source_validation"], test, result["chosen"])
    return found


def files_with(text: str, *folders: Path) -> list[str]:
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


@pytest.mark.slow
def test_a_sweep_stops_within_its_budget_and_goes_on_with_a_larger_one(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, checks = tmp_path / "out", 2 * 7 + 1
    budget = checks + 2 * ZERO_SHOT + LIVE + 5
    assert run(sweep_arguments(root, out, "--query-budget", str(budget), "--price-per-1000", "1000")) == 4
    written = capsys.readouterr()
    spent = reserved_queries(out / "queries")
    assert spent == budget - 5, "the next group needs more than is left"
    report = json.loads(written.out)
    assert report["teacher_queries"]["store"]["images"] + report["teacher_queries"]["store"]["texts"] == spent
    assert "no budget lets any of the 1 waiting folds start:" in written.err
    assert (
        f"the query budget of {budget:,} does not cover what is left: {spent:,} asked, at most {LIVE} to come; raise "
        f"--query-budget ({spent + LIVE:,} would do)"
    ) in written.err
    assert f"price {spent:,.2f} by the whole store" in written.err
    assert len(accuracies(out)) == 3
    assert not list(out.rglob("error.json"))
    assert run(sweep_arguments(root, out, "--query-budget", str(budget))) == 4, "nothing is asked to find that out"
    assert reserved_queries(out / "queries") == spent
    capsys.readouterr()
    assert run(sweep_arguments(root, out, "--query-budget", str(spent + LIVE))) == 0
    assert reserved_queries(out / "queries") == spent + LIVE
    assert len(accuracies(out)) == 4
    capsys.readouterr()
    assert run(["status", "--out", str(out), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["store_queries"]["images"] + content["store_queries"]["texts"] == spent + LIVE
    assert content["price"] == pytest.approx(content["queries"]["images"] + content["queries"]["texts"])


@pytest.mark.slow
def test_a_killed_sweep_goes_on_within_the_same_budget(root: Path, tmp_path: Path) -> None:
    long, steps = ["align.num_steps=5", "distill.num_steps=200", "evaluate_every=5", "sweep.zero_shot=false"], 6 + 201
    fold, lost = steps * 4 + 7, 7 + 2 * (5 * 4 + 4 + 7)
    out, budget = tmp_path / "out", 7 + 2 * fold + lost
    arguments = [*sweep_arguments(root, out, "--query-budget", str(budget)), *long]
    killed_at(arguments, lambda: reserved_queries(out / "queries") > 7 + fold + fold // 2)
    asked = reserved_queries(out / "queries")
    assert asked + fold > budget, "the test is blind: a whole fold still fits"
    assert run(arguments) == 0
    assert len(accuracies(out)) == 2
    assert reserved_queries(out / "queries") <= budget


@pytest.mark.slow
def test_train_within_a_budget_that_is_too_small_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--benchmark", "two", "--data-root", str(root), "--test-domain", "sketch", "--teacher", NAME]
    arguments += ["--out", str(tmp_path / "out"), *TINY]
    assert run([*arguments, "--query-budget", str(LIVE + 6)]) == 4
    written = capsys.readouterr()
    assert written.err == (
        f"error: the query budget of {LIVE + 6} is reached: 0 asked, {LIVE + 7} more wanted; raise --query-budget and "
        "run the same command again\n"
    )
    assert reserved_queries(tmp_path / "out" / "queries") == 0
    assert run([*arguments, "--query-budget", str(LIVE + 7), "--executor", "tune"]) == 0
    assert "teacher queries: 40 images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_sweep_on_a_warm_store_asks_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    own = ["--store", str(store), "--teacher-mode", "views:2"]
    no_zero_shot = "sweep.zero_shot=false"
    assert run(sweep_arguments(root, tmp_path / "first", *own, no_zero_shot)) == 0
    asked = query_counts(store / "queries")
    assert (asked.images, asked.texts, asked.unique_views) == (2 * 2 * 48, 7, 2 * 84)
    capsys.readouterr()
    second = tmp_path / "second"
    assert run(sweep_arguments(root, second, *own, no_zero_shot, "--seeds", "2", "--query-budget", "199")) == 0
    assert query_counts(store / "queries") == asked
    report = json.loads(capsys.readouterr().out)
    assert report["tables"][0]["seeds"] == [0, 1]
    assert len(list(store.glob("folds/*/result.json"))) == 4, "seed 0 is shared, seed 1 is new"
    assert not (second / "folds").exists()
    assert open_store(second).shared == store, "--out remembers its store"
    assert run(["report", "--out", str(second)]) == 0
    assert run(["teacher", "status", "--out", str(second)]) == 0
    assert "192 images and 7 texts" in capsys.readouterr().out
    assert run(sweep_arguments(root, second, "--store", str(tmp_path / "other"), no_zero_shot)) == 2
    assert "keeps its folds in" in capsys.readouterr().err


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.mark.slow
def test_a_teacher_over_http_that_drops_refuses_and_dies_gives_the_same_numbers(
    root: Path, tmp_path: Path, token: None
) -> None:
    out, log = tmp_path / "remote", tmp_path / "sweep.log"
    with served(tmp_path / "server", "drop=0.2", "too_many=0.1", "error=0.1") as server:
        arguments = sweep_arguments(root, out, teacher=f"remote:{server.url}")
        program = f"from orchestrator.cli import main; main({arguments!r})"
        with log.open("wb") as stream:
            process = subprocess.Popen([sys.executable, "-c", program], stdout=stream, stderr=subprocess.STDOUT)
        seen, killed = _processes_with(TOKEN), False
        while process.poll() is None:
            seen += _processes_with(TOKEN)
            if not killed and server.paid_so_far() > 60:
                server.kill()
                server.start(wait=False)
                killed = True
            time.sleep(0.1)
        assert process.returncode == 0, log.read_text()
        assert killed, "the server was to die half way"
        while not server.answers():
            time.sleep(0.1)
        paid, asked = server.paid(), query_counts(out / "queries")
    assert (paid["images"], paid["texts"]) == (asked.images, asked.texts), "a repeated query is paid once"
    assert asked.images + asked.texts == 2 * 7 + 1 + 2 * ZERO_SHOT + 2 * LIVE
    assert asked.unconfirmed == 0
    assert seen == [], "the token is in a process list"
    assert files_with(TOKEN, out, tmp_path / "server") == []
    assert TOKEN not in log.read_text()
    assert accuracies(out) == local_folds(root, out, tmp_path / "local")


def local_folds(root: Path, out: Path, local: Path) -> dict[str, Any]:
    """The same folds with the teacher in this process."""
    for path in sorted(out.glob("folds/*/spec.json")):
        spec = fold_spec_from_mapping(json.loads(path.read_text()))
        spec = replace(
            spec,
            hyperparameters=replace(spec.hyperparameters, teacher=NAME),
            teacher_fingerprint=teacher_fingerprint(NAME),
        )
        job = FoldJob(
            spec=spec,
            benchmark=resolve_benchmark("two", root),
            folder=str(local / "folds" / spec.key),
            align_folder=str(local / "aligns" / spec.align_key),
            data_root=str(root),
        )
        run_job(job.to_mapping())
    return accuracies(local)


@pytest.mark.slow
def test_a_server_that_answers_nonsense_or_refuses_us_is_one_line(
    root: Path, tmp_path: Path, token: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["teacher", "embed", "--benchmark", "two", "--data-root", str(root), "--teacher-mode", "clean"]
    arguments += ["--store", str(tmp_path / "store"), "--workers", "0", "image_size=32", "--teacher"]

    def line(url: str, *, sweeps: bool = False) -> str:
        command = sweep_arguments(root, tmp_path / f"out-{url[-5:]}", teacher=f"remote:{url}")
        assert run(command if sweeps else [*arguments, f"remote:{url}"]) == 2
        written = capsys.readouterr().err.splitlines()
        assert sum(text.startswith("error: ") for text in written) == 1
        assert not any("Traceback" in text for text in written)
        return written[-1]

    with served(tmp_path / "a", "extra_dim=1") as server:
        assert "answers torch.float32 [7, 33]; float [7, 32] is wanted" in line(server.url)
        monkeypatch.setenv(TOKEN_VARIABLE, "another")
        for sweeps in (True, False):
            assert f"refuses us (401): check the token in {TOKEN_VARIABLE}" in line(server.url, sweeps=sweeps)
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with served(tmp_path / "b", "nan=1") as server:
        assert "answers NaN or infinite embeddings for 1 of 7 queries" in line(server.url, sweeps=True)
    assert not list(tmp_path.rglob("result.json"))


def _processes_with(text: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            content = file.read_bytes()
        except OSError:
            continue
        if text.encode() in content:
            found.append(content.decode(errors="replace"))
    return found
