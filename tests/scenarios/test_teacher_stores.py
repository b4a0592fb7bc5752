"""Commands at a paid vendor: what is told before, at a budget's end, and of half a store; no secret in its address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import run
from tests.support.slow_vendor import slow_vendor


@pytest.mark.slow
def test_the_cost_is_told_before_and_half_a_store_is_shown_and_is_not_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with slow_vendor(pause_s=0.0) as vendor:
        name = f"remote:{vendor.url}"
        own = ["--benchmark", "icons", "--teacher-mode", "clean", "--teacher", name, "--store", str(tmp_path)]
        embed = ["teacher", "embed", *own, "--workers", "0", "--price-per-1000", "500", "image_size=16"]
        verify = ["teacher", "verify", *own, "image_size=16"]
        assert run([*embed, "--query-budget", "250"]) == 4
        written = capsys.readouterr()
        forecast, error = written.err.splitlines()
        rows, texts = (int(word.replace(",", "")) for word in forecast.split() if word[0].isdigit() and "." not in word)
        assert forecast == (
            f"icons clean: {rows:,} images and {texts} texts to ask {name} for, price {(rows + texts) / 2:,.2f}"
        )
        assert error.startswith("error: the query budget of 250 is reached")
        asked = (250 - texts) // 64 * 64
        assert vendor.paid == asked + texts
        table, ledger = written.out.splitlines()
        assert table.startswith(f"icons clean: {asked} of {rows:,} rows in ")
        assert table.endswith(" (partly filled: `teacher embed` asks for the rest)")
        assert ledger == (
            f"teacher queries of the whole store: {asked} images and {texts} texts; price {vendor.paid / 2:,.2f}"
        )
        assert run(verify) == 0
        assert capsys.readouterr().out.splitlines()[0] == table
        assert run([*verify, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert (content["problems"], content["stores"][0]["rows"]) == ([], asked)
        assert run(embed) == 0
        written = capsys.readouterr()
        assert f"icons clean: {rows - asked:,} images and 0 texts to ask" in written.err
        assert written.out.startswith(f"icons clean: {rows:,} of {rows:,} rows in 4 of 4 shards")
        assert "partly" not in written.out
        assert vendor.paid == rows + texts


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/v1?key=s3cr3t", "http://127.0.0.1:9#s3cr3t", "http://me:s3cr3t@127.0.0.1:9"]
)
@pytest.mark.parametrize("command", [["sweep", "-y"], ["plan"], ["teacher", "embed", "--teacher-mode", "clean"]])
def test_a_secret_in_an_address_is_refused_before_anything_is_written(
    address: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if command == ["plan"] else ["--out", str(tmp_path)]
    assert run([*command, *out, "--benchmark", "icons", "--teacher", f"remote:{address}"]) == 2
    written = capsys.readouterr()
    assert "VL2V_TEACHER_TOKEN" in written.err
    assert "s3cr3t" not in written.out + written.err
    assert [file for file in tmp_path.rglob("*") if file.is_file() and b"s3cr3t" in file.read_bytes()] == []
