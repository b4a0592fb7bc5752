"""`domainbed`: DomainBed's own records from disk, printed as DomainBed prints them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.report.domainbed.records import read_records
from search_spaces.errors import UserError
from tests.support.golden import golden_json, golden_lines, golden_path


@pytest.mark.parametrize(("form", "options"), [("text", []), ("latex", ["--latex"])])
def test_golden_tables_are_printed_from_a_file(
    form: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["domainbed", str(golden_path("records_A_pairs.jsonl.gz")), *options]) == 0
    assert capsys.readouterr().out == golden_json("selection.json")["sweeps"]["A_pairs"]["tables"][form]


def test_the_files_of_all_runs_below_a_folder_are_read(tmp_path: Path) -> None:
    records = golden_lines("records_A_pairs.jsonl.gz")
    for number in (1, 0):
        (tmp_path / f"run{number}").mkdir()
        half = records[number::2]
        (tmp_path / f"run{number}" / "results.jsonl").write_text("".join(f"{json.dumps(one)}\n\n" for one in half))
    assert read_records(tmp_path) == records[0::2] + records[1::2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no DomainBed record in .*; give a folder that holds results.jsonl files"),
        ("", "no DomainBed record in"),
        ("\n{", "line 2 is not JSON"),
        ("[]", "line 1 is no DomainBed record: it is no object with args"),
        (
            '{"args": {"trial_seed": 0}}',
            "it lacks args.dataset, args.algorithm, args.test_envs, args.hparams_seed, step",
        ),
        (
            '{"args": {"trial_seed": 0, "dataset": "PACS", "algorithm": "ERM", "test_envs": [1], "hparams_seed": 0}}',
            "it lacks step, env1_in_acc, env1_out_acc",
        ),
    ],
)
def test_what_is_no_record_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_records(tmp_path)


def test_a_file_that_is_not_there_or_torn_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:-12])
    for name in ("none.jsonl", "torn.jsonl.gz"):
        with pytest.raises(UserError, match=f"cannot read .*{name}"):
            read_records(tmp_path / name)
