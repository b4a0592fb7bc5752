"""The command line: what it builds, how mistakes end, and what it must not load."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import app, run
from orchestrator.cli.app import GROUPS
from orchestrator.cli.commands.run_fold import queries_line
from orchestrator.cli.progress import LINE_INTERVAL_S, LiveTable, LogLines, event_line
from orchestrator.events import Counts, FoldEvent, ProgressEvent
from orchestrator.store.records import TrialRecord
from orchestrator.store.results import AskedQueries
from orchestrator.store.search_records import SearchRecords
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from tests.support.command_lines import requested
from tests.support.repository import REPOSITORY
from tests.support.stub_sweep import run_stub

ENGINES = ("torch", "ray", "mlflow")


def run_in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which then says which engines it loaded."""
    program = (
        "import sys\n"
        "from orchestrator.cli import run\n"
        f"code = run({list(arguments)!r})\n"
        f"print('loaded:', *sorted(set({ENGINES!r}) & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


COMMANDS = ("doctor", "plan", "train", "sweep", "status", "report", "ui", "data", "teacher")
COMMANDS += ("watch", "logs", "stop", "cancel", "retry", "rerun", "explain", "export-hparams", "sync")


NESTED = [["data", name] for name in ("list", "where", "verify", "fetch", "pack")]
NESTED += [["teacher", name] for name in ("serve", "embed", "verify", "status")]


@pytest.mark.parametrize(
    "arguments", [["--help"], [], *([name, "--help"] for name in COMMANDS), *([*names, "--help"] for names in NESTED)]
)
def test_help_loads_no_engine(arguments: list[str]) -> None:
    done = run_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("Usage: vl2v-orchestrate")
    assert done.stderr.strip() == "loaded:"


def test_help_shows_the_commands_by_heading_in_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    headings = re.findall(r"^╭─ (\w+) ", shown, re.MULTILINE)
    assert headings == ["Options", *GROUPS]
    names = re.findall(r"^│ ([a-z][a-z-]+)  ", shown, re.MULTILINE)
    assert names == [
        *("plan", "sweep", "retry", "train", "rerun"),
        *("status", "watch", "logs", "explain"),
        *("stop", "cancel", "data", "teacher", "doctor"),
        *("report", "domainbed", "ui", "export-hparams", "sync"),
        *("settings", "spaces", "methods", "benchmarks"),
    ]


def test_a_command_is_in_the_file_of_its_heading() -> None:
    root: Any = typer.main.get_command(app)
    for command in root.commands.values():
        for one in getattr(command, "commands", {"": command}).values():
            module = one.callback.__module__.removeprefix("orchestrator.cli.commands.")
            assert module.partition("_")[0] == command.rich_help_panel.lower(), one.name


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x.json"), "runs/x.json: No space left on device; "),
        (OSError("the mirror is in use"), "the mirror is in use; "),
        (PermissionError(), "PermissionError; "),
        (json.JSONDecodeError("Expecting value", "", 0), "a JSON file is damaged (Expecting value, '' is read); "),
    ],
)
def test_a_disk_that_fails_in_the_middle_of_the_work_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(store: object) -> None:
        raise error

    monkeypatch.setattr("orchestrator.inspection.status.sweep_status", fails)
    assert run(["status", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {said}")
    assert told.endswith("mend that and run the same command to resume\n")
    assert told.count("\n") == 1


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_sweep_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = SearchRecords.write_trial, 0

    def fills_up(records: SearchRecords, record: TrialRecord) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise OSError(errno.ENOSPC, "No space left on device", "trials")
        write(records, record)

    with monkeypatch.context() as full:
        full.setattr(SearchRecords, "write_trial", fills_up)
        with pytest.raises(OSError, match="No space left"):
            run_stub(tmp_path)
    assert run_stub(tmp_path)[0].exit_code == 0


def test_plan_of_the_five_benchmarks_loads_no_engine() -> None:
    done = run_in_process(
        "plan", "--benchmark", "all", "--space", "official", "--trials", "20", "--seeds", "3", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "loaded:"
    plan = json.loads(done.stdout)
    assert plan["fold_groups"] == 22
    assert plan["teacher_queries_per_configuration_and_seed"] == 44_164_992


def test_the_console_script_ends_with_the_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main(['plan', '--benchmark', 'nosuch'])"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


MISTAKES = {
    "command": (["plann"], "nearest: plan"),
    "nested command": (["data", "sampel"], "nearest: sample"),
    "option": (["plan", "--benchmrk", "PACS"], "nearest: --benchmark"),
    "number": (["plan", "--benchmark", "PACS", "--trials", "few"], "--trials"),
    "missing option": (["train", "--benchmark", "icons"], "--test-domain"),
    "benchmark": (["plan", "--benchmark", "PACSS"], "nearest: PACS"),
    "no benchmark": (["plan"], "--benchmark"),
    "method": (["plan", "--benchmark", "icons", "--method", "vl2v_adpi"], "nearest: vl2v_adip"),
    "space": (["plan", "--benchmark", "icons", "--space", "offical"], "nearest: official"),
    "scope": (["plan", "--benchmark", "icons", "--scope", "domains"], "nearest: domain"),
    "no trials": (["plan", "--benchmark", "icons", "--trials", "0"], "trials is 1 or more"),
    "key": (["plan", "--benchmark", "icons", "align.lrr=1"], "nearest: align.lr"),
    "resources key": (["plan", "--benchmark", "icons", "resources.worker=1"], "nearest: resources.workers"),
    "override": (["plan", "--benchmark", "icons", "align.lr"], "KEY=VALUE"),
    "override value": (["plan", "--benchmark", "icons", "align.lr=fast"], "align.lr wants float"),
    "config": (["plan", "--config", "demoo.yaml"], "nearest: demo.yaml"),
    "data root": (["plan", "--benchmark", "icons", "--data-root", "no-such-folder"], "no-such-folder"),
    "executor": (["sweep", "--benchmark", "icons", "--executor", "tunes"], "nearest: tune"),
    "error": (["report", "--out", "none", "--error", "samlpe"], "nearest: sample"),
    "oracle sweep": (["sweep", "--benchmark", "icons", "--selection", "oracle"], "a sweep never chooses by test"),
    "choice by reported images": (
        [
            "plan",
            "--benchmark",
            "PACS",
            "--space",
            "official",
            "--trials",
            "2",
            "--scope",
            "benchmark",
            "--selection",
            "leave_one_domain_out",
        ],
        "allowed: --scope domain with leave_one_domain_out, or --scope benchmark with source_validation",
    ),
    "a space and no trials": (["plan", "--benchmark", "PACS", "--space", "official"], "add --trials N with N of 2 or"),
    "a wide space and no trials": (["sweep", "--benchmark", "PACS", "--space", "wide", "-y"], "space wide is searched"),
    "a space and no trials by an override": (["plan", "--benchmark", "PACS", "sweep.space=wide"], "add --trials N"),
    "fewer steps than an interval": (
        ["plan", "--benchmark", "PACS", "distill.num_steps=41"],
        "distill.num_steps: 41 asked, 1 run on PACS, which is evaluated every 200 steps; ask for 200 or more",
    ),
    "fewer steps of a sweep": (["sweep", "--benchmark", "PACS", "-y", "align.num_steps=199"], "199 asked, 1 run"),
    "a longer interval than the steps": (["plan", "--benchmark", "PACS", "evaluate_every=9999"], "5,001 asked, 1 run"),
    "selection of a sweep": (["plan", "--benchmark", "icons", "--selection", "loo"], "leave_one_domain_out"),
    "selection": (["report", "--out", "none", "--selection", "oracel"], "nearest: oracle"),
    "domain": (["train", "--benchmark", "icons", "--test-domain", "lines"], "line"),
    "negative seed": (["train", "--benchmark", "icons", "--test-domain", "line", "--seed", "-1"], "--seed"),
    "two benchmarks": (["train", "--benchmark", "PACS,VLCS", "--test-domain", "photo"], "one fold"),
    "no terminal": (["sweep", "--benchmark", "icons"], "add -y"),
    "no sweep there": (["report", "--out", "nothing-here"], "nothing-here"),
    "no sweep to serve": (["ui", "--out", "nothing-here"], "nothing-here"),
    "no sweep to watch": (["status", "--out", "nothing-here"], "nothing-here"),
    "no sweep to look at": (["watch", "--out", "nothing-here"], "nothing-here"),
    "no time between looks": (
        ["watch", "--out", "nothing-here", "--interval", "0"],
        "--interval is a number",
    ),
    "for ever between looks": (["watch", "--out", "nothing-here", "--interval", "inf"], "--interval is a number"),
    "no such port": (["ui", "--out", "nothing-here", "--port", "65536"], "--port is 0 (a free one) to 65535"),
    "infinite learning rate": (["plan", "--benchmark", "icons", "distill.lr=inf"], "lr is a number above 0"),
    "no weight decay": (["plan", "--benchmark", "icons", "align.weight_decay=nan"], "weight_decay is a number"),
    "infinite temperature": (["plan", "--benchmark", "icons", "kd_temperature=inf"], "kd_temperature is a number"),
    "no tolerance": (
        ["plan", "--benchmark", "icons", "swad.tolerance_ratio=nan"],
        "tolerance_ratio is a number, 0 or more",
    ),
    "no GPUs": (["plan", "--benchmark", "icons", "--gpus-per-worker", "nan"], "gpus_per_worker is a number"),
    "infinite CPUs": (["plan", "--benchmark", "icons", "resources.cpus_per_worker=inf"], "cpus_per_worker is a number"),
    "no folds at a time": (["sweep", "--benchmark", "icons", "--dry-run", "--max-concurrent", "0"], "1 or more, got 0"),
    "fewer attempts": (["sweep", "--benchmark", "icons", "--dry-run", "--max-failures", "-1"], "0 or more, got -1"),
    "no retries at a time": (["retry", "--out", "x", "--max-concurrent", "0"], "--max-concurrent is 1 or more"),
    "no hours": (["retry", "--out", "x", "--wall-budget", "nan"], "--wall-budget"),
    "no fold to log": (["logs", "icons/line/seed0", "--out", "nothing-here"], "nothing-here"),
    "no fold to explain": (["explain", "icons/line/seed0", "--out", "nothing-here"], "nothing-here"),
    "no fold to run again": (["rerun", "icons/line/seed0", "--out", "nothing-here"], "nothing-here"),
    "a cluster without Ray": (["rerun", "abcdef", "--out", "x", "--local", "--address", "auto"], "without Ray"),
    "followed JSON": (["logs", "abcdef", "--out", "nothing-here", "-f", "--json"], "--follow tells line by line"),
    "no sweep to stop": (["stop", "--out", "nothing-here"], "nothing-here"),
    "no sweep to cancel": (["cancel", "--out", "nothing-here"], "nothing-here"),
    "no sweep to retry": (["retry", "--out", "nothing-here"], "nothing-here"),
    "no sweep to export": (["export-hparams", "--out", "nothing-here"], "nothing-here"),
    "no sweep to sync": (["sync", "--out", "nothing-here"], "nothing-here"),
    "no such teacher mode": (["plan", "--benchmark", "icons", "--teacher-mode", "view:4"], "views:K"),
    "negative budget": (["plan", "--benchmark", "icons", "--query-budget", "-1"], "--query-budget is 0 or more"),
    "negative price": (
        ["plan", "--benchmark", "icons", "--price-per-1000", "-1"],
        "--price-per-1000 is a number, 0 or more",
    ),
    "live stores nothing": (["teacher", "embed", "--benchmark", "icons"], "--out DIR or --store DIR"),
    "no store to list": (["teacher", "status"], "--out DIR or --store DIR"),
    "no token": (["teacher", "serve", "--teacher", "demo", "--host", "0.0.0.0"], "VL2V_TEACHER_TOKEN"),
    "no such teacher": (["teacher", "serve", "--teacher", "demmo"], "nearest: demo"),
    "no such host": (["teacher", "serve", "--teacher", "demo", "--allowed-host", "a:80"], "without a port; got 'a:80'"),
    "no such fault": (["teacher", "serve", "--teacher", "demo", "--fault", "drip=1"], "--fault is one of drop"),
    "no teacher": (["plan", "--benchmark", "icons", "--teacher", "demmo"], "nearest: demo"),
    "no checkpoint": (["plan", "--benchmark", "icons", "--teacher", "open_clip:RN50:no/x.pt"], "no teacher checkpoint"),
    "no architecture": (["plan", "--benchmark", "icons", "--teacher", "open_clip:RN51:openai"], "nearest: RN50"),
    "no architecture file": (
        ["plan", "--benchmark", "icons", "--teacher", "open_clip:x.json:a"],
        "no architecture file",
    ),
    "no random seed": (["plan", "--benchmark", "icons", "--teacher", "open_clip:RN50:random:x"], "random:SEED"),
    "no address": (["plan", "--benchmark", "icons", "--teacher", "remote:vendor"], "remote:http://HOST:PORT"),
    "no port": (["plan", "--benchmark", "icons", "--teacher", "remote:http://a:x"], "remote:http://HOST:PORT"),
    "no such weights": (["plan", "--benchmark", "icons", "student_weights=no.pt"], "no student weights 'no.pt'"),
    "too many views": (["plan", "--benchmark", "icons", "--teacher-mode", "views:99999999999"], "K from 1 to 100,000"),
    "more views than digits": (["plan", "--benchmark", "icons", "--teacher-mode", f"views:{'9' * 5000}"], "views:K"),
    "huge images": (["plan", "--benchmark", "icons", "image_size=100000000"], "image_size lies in [1, 4096]"),
    "no name": (["plan", "--benchmark", "icons", "--name", ""], "--name is 1 to 100 bytes"),
    "a blank name": (["sweep", "--benchmark", "icons", "-y", "sweep.name='  '"], "--name is 1 to 100 bytes"),
    "a folder for a name": (["sweep", "--benchmark", "icons", "-y", "--name", "../x"], "without '/'"),
    "a name of two lines": (["sweep", "--benchmark", "icons", "-y", "--name", "a\nb"], "printable"),
    "a null in a name": (["sweep", "--benchmark", "icons", "-y", "--name", "a\0b"], "printable"),
    "no images": (["sweep", "--benchmark", "PACS", "-y"], "PACS needs --data-root DIR"),
    "no store to look at": (["teacher", "status", "--out", "none"], "there is no folder"),
    "no store to check": (
        ["teacher", "verify", "--benchmark", "icons", "--teacher-mode", "clean", "--teacher", "demo", "--out", "none"],
        "there is no folder",
    ),
    "no ledger": (["teacher", "serve", "--teacher", "demo", "--ledger", "none/ledger"], "--ledger is a file in"),
    "a ledger of folders": (["teacher", "serve", "--teacher", "demo", "--ledger", "."], "--ledger is a file in"),
    "huge images to serve": (["teacher", "serve", "--teacher", "demo", "--image-size", "5000"], "at most 4,096"),
    "cluster file": (["doctor", "--cluster-file", "none.yaml", "--json"], ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[mistake]
    assert run(arguments) == 2
    if expected:
        written = capsys.readouterr()
        assert written.err.startswith("error: "), written.err
        assert written.err.count("\n") == 1
        assert expected in written.err
        assert written.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["teacher", "embed", "--benchmark", "icons", "--teacher", "demo"],
        ["teacher", "embed", "--benchmark", "icons", "--teacher", "demo", "--out", "none"],
        ["teacher", "embed", "--benchmark", "icons", "--teacher", "demmo", "--teacher-mode", "clean", "--out", "none"],
        ["teacher", "embed", "--benchmark", "PACS", "--teacher", "demo", "--teacher-mode", "clean", "--out", "none"],
        ["teacher", "serve", "--teacher", "demo", "--ledger", "none/ledger"],
    ],
)
def test_a_mistake_at_the_teacher_is_found_before_torch_is_loaded(arguments: list[str]) -> None:
    done = run_in_process(*arguments)
    assert done.returncode == 2
    mistake, loaded = done.stderr.splitlines()
    assert mistake.startswith("error: ")
    assert loaded == "loaded:"
    assert not (REPOSITORY / "none").exists()


def test_a_mistake_does_not_repeat_a_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_KEY", "hush-hush")
    assert run(["plan", "--benchmark", "hush-hush http://me:p@ssw0rd@host/x?sig=s1g"]) == 2
    said = capsys.readouterr().err
    assert "'*** http://***@host/x?sig=***" in said
    assert not [secret for secret in ("hush", "ssw0rd", "s1g") if secret in said]


def test_later_sources_win(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "sweep: {benchmarks: [PACS], methods: [erm], trials: 2, seeds: 2}\n"
        "hyperparameters: {align: {lr: 0.5}, distill: {lr: 0.5}}\nresources: {workers: 2}\n"
    )
    methods = ["--method", "vl2v_adip", "--method", "erm,kd"]
    request = requested("--config", str(config), "--trials", "3", *methods, "align.lr=1e-4")
    assert request.sweep.benchmarks == ("PACS",)
    assert request.sweep.methods == ("vl2v_adip", "erm", "kd")
    assert (request.sweep.trials, request.sweep.seeds) == (3, 2)
    assert request.sweep.hyperparameters.align.lr == 1e-4
    assert request.sweep.hyperparameters.distill.lr == 0.5
    assert request.options.resources.workers == 2
    changed = requested("--config", str(config), "--workers", "1", "--seeds", "4", "sweep.seeds=5")
    assert (changed.options.resources.workers, changed.sweep.seeds) == (1, 5)


def test_the_same_content_has_the_same_default_folder() -> None:
    words = ["--benchmark", "icons", "--method", "erm"]
    first = requested(*words)
    assert first.default_out() == requested(*words, "--workers", "2").default_out()
    assert first.default_out() != requested(*words, "--seeds", "2").default_out()


def make_benchmark(root: Path) -> None:
    for domain in ("day", "night"):
        for name in ("cat", "dog"):
            (root / domain / name).mkdir(parents=True)


def test_a_folder_is_a_benchmark_by_path_and_by_name(tmp_path: Path) -> None:
    make_benchmark(tmp_path / "pets")
    by_path = requested("--benchmark", f"folder:{tmp_path / 'pets'}")
    by_name = requested("--benchmark", "pets", "--data-root", str(tmp_path))
    for request in (by_path, by_name):
        assert request.sweep.benchmarks == ("pets",)
        assert request.options.benchmarks["pets"].domain_names == ("day", "night")
    assert by_path.sweep.key == by_name.sweep.key


def test_all_are_the_five() -> None:
    request = requested("--benchmark", "all")
    assert request.sweep.benchmarks == ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")
    with pytest.raises(UserError, match="nearest: PACS"):
        requested("--benchmark", "all,PACX")


def test_weight_files_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("student.pt", "clip.safetensors"):
        (tmp_path / name).touch()
    overrides = ["student_weights=student.pt", "teacher=open_clip:ViT-B-32:clip.safetensors"]
    made = requested("--benchmark", "PACS", *overrides).sweep.hyperparameters
    assert made.student_weights == str(tmp_path / "student.pt")
    assert made.teacher == f"open_clip:ViT-B-32:{tmp_path / 'clip.safetensors'}"
    named = requested("--benchmark", "PACS").sweep.hyperparameters
    assert named.teacher == "open_clip:ViT-B-16-quickgelu:openai"
    assert named.student_weights == "pretrained"


def test_a_dry_run_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sweep", "--benchmark", "icons", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fold_groups"] == 4
    assert list(tmp_path.iterdir()) == []


def test_a_no_at_the_question_runs_nothing(tmp_path: Path) -> None:
    """On a terminal the plan is shown and the answer awaited."""
    pty = pytest.importorskip("pty")
    read_end, write_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from orchestrator.cli import main; main(['sweep', '--benchmark', 'icons'])"],
        stdin=write_end,
        stdout=write_end,
        stderr=write_end,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "dumb", "COLUMNS": "200"},
    )
    os.close(write_end)
    shown = b""
    while b"Run it?" not in shown:
        shown += os.read(read_end, 4096)
    os.write(read_end, b"n\n")
    assert process.wait(timeout=60) == 130
    os.close(read_end)
    assert b"icons" in shown
    assert list(tmp_path.iterdir()) == []


def test_sample_writes_the_exact_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "sample", str(tmp_path), "--benchmark", "PACS", "--images-per-class", "1", "--json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"PACS": 28}
    assert len(list((tmp_path / "PACS").glob("*/*/*.*"))) == 28


def fold_event(kind: str, *, done: int = 1, accuracy: float | None = 0.5, error: str = "") -> ProgressEvent:
    fold = Fold(benchmark="PACS", test_domains=("sketch",), seed=0)
    return ProgressEvent(
        kind=kind,  # type: ignore[arg-type]
        counts=Counts(done=done, waiting=3 - done),
        fold=FoldEvent(
            key="k",
            group="PACS/erm/sketch",
            number=2,
            fold=fold,
            method="erm",
            accuracy=accuracy,
            seconds=9,
            error=error,
        ),
    )


def test_the_last_line_of_train_names_lost_answers_where_there_are_any() -> None:
    asked = AskedQueries(images=1_000, texts=7, unique_images=120, bytes=9)
    assert queries_line(asked, None) == "teacher queries: 1,000 images (120 different), 7 texts"
    lost = queries_line(replace(asked, unconfirmed=1_224), 2.0)
    assert lost == "teacher queries: 1,000 images (120 different), 7 texts, 1,224 unconfirmed; price 2.01"


def test_an_event_in_words() -> None:
    expected = "[1/3] PACS/erm/sketch trial 2 sketch seed 0 done: source validation 50.0% in 9 s"
    assert event_line(fold_event("fold_done")) == expected
    assert event_line(fold_event("fold_failed", error="out of memory")).endswith("FAILED: out of memory")


def test_a_log_file_gets_few_lines_and_every_failure() -> None:
    now, stream = [100.0], io.StringIO()
    log = LogLines(stream, clock=lambda: now[0])
    for done in (1, 2, 3):
        log(fold_event("fold_started", done=done))
        log(fold_event("fold_done", done=done))
        now[0] += LINE_INTERVAL_S / 4
    log(fold_event("fold_failed", error="it broke"))
    log(fold_event("fold_done", done=3))
    log(ProgressEvent(kind="sweep_finished", counts=Counts(done=3), text="over"))
    lines = stream.getvalue().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["[1/3]", "[1/3]", "[3/3]", "over"]
    assert "it broke" in lines[1]
    assert "\x1b" not in stream.getvalue()


def test_the_live_table_counts_by_group() -> None:
    from rich.console import Console

    table, printed = LiveTable({"PACS/erm/sketch": 3}), []
    for event in (fold_event("fold_started"), fold_event("fold_done"), fold_event("fold_failed", error="[red]x")):
        table.watch(event, print_line=printed.append)
    console = Console(file=io.StringIO(), width=120)
    console.print(table.render())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "PACS/erm/sketch" in shown
    assert "1/3 (1 failed)" in shown
    assert "50.0%" in shown
    assert printed == [event_line(fold_event("fold_failed", error="[red]x"))]
