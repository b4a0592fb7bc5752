"""`data ...` on the command line: what it prints, what it writes, and how mistakes end."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import run
from orchestrator.cli.bars import counters
from tests.support.archives import downloads, local_sources
from tests.support.file_server import FileServer
from trainables.data.acquire.sources import BenchmarkSources
from trainables.data.formats.sample import write_sample


def said(capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    written = capsys.readouterr()
    return json.loads(written.out) if written.out else None, written.err


def test_list_names_every_benchmark_and_its_routes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "list", "--json"]) == 0
    rows, _ = said(capsys)
    by_name = {row["benchmark"]: row for row in rows}  # type: ignore[attr-defined]
    assert set(by_name) == {"PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet", "icons"}
    assert by_name["PACS"]["images"] == 9991
    assert by_name["PACS"]["routes"][0] == "archive"
    assert run(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert "9,991" in printed
    assert "PACS: none stated; research use; Li et al., Deeper, Broader and Artier Domain Generalization" in printed


def test_where_prefers_the_pack_that_pack_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(tmp_path, benchmarks=["PACS"], images_per_class=1)
    where = ["data", "where", "--benchmark", "PACS,VLCS,icons", "--data-root", str(tmp_path), "--json"]
    assert run(where) == 0
    assert [row["form"] for row in said(capsys)[0]] == ["folder", "-", "package"]  # type: ignore[attr-defined]
    assert run(["data", "pack", "--benchmark", "PACS", "--data-root", str(tmp_path), "--json"]) == 0
    packed, _ = said(capsys)
    assert sum(packed["PACS"]["domains"].values()) == 28  # type: ignore[index]
    assert run(where) == 0
    assert said(capsys)[0][0] == {"benchmark": "PACS", "form": "pack", "place": str(tmp_path / "PACS.pack")}  # type: ignore[index]
    again = ["data", "pack", "--benchmark", "PACS", "--data-root", str(tmp_path), "--encoding", "pixels"]
    assert run(again) == 2, "another pack is not replaced unasked"
    assert "overwrite" in capsys.readouterr().err
    assert run([*again, "--overwrite"]) == 0


def test_verify_ends_with_2_for_what_is_no_known_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(tmp_path, benchmarks=["PACS"], images_per_class=1)
    shutil.copytree(tmp_path / "PACS", tmp_path / "mine")
    arguments = ["data", "verify", "--data-root", str(tmp_path), "--json", "--manifest", str(tmp_path / "manifests")]
    assert run([*arguments, "--benchmark", "mine"]) == 0, "a folder of one's own has no published counts"
    (found,) = said(capsys)[0]  # type: ignore[misc]
    assert (found["accepted"], found["num_images"]) == (True, 28)
    assert len((tmp_path / "manifests" / "mine.manifest.tsv").read_text().splitlines()) == 28
    shutil.rmtree(tmp_path / "PACS" / "sketch")
    assert run([*arguments, "--benchmark", "PACS"]) == 2
    (found,), line = said(capsys)  # type: ignore[misc]
    assert "1 of 4 domain folders are missing: sketch" in found["errors"]
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_verify_looks_at_what_training_would_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(tmp_path, benchmarks=["PACS"], images_per_class=2)
    (tmp_path / "PACS").rename(tmp_path / "mine")
    root = ["--data-root", str(tmp_path), "--json"]
    assert run(["data", "pack", "--benchmark", "mine", *root]) == 0
    (tmp_path / "mine" / "photo" / "dog" / "000.jpg").unlink()
    capsys.readouterr()
    assert run(["data", "verify", "--benchmark", "mine", *root]) == 0
    (found,), _ = said(capsys)  # type: ignore[misc]
    assert (found["form"], found["num_images"]) == ("pack", 56)
    assert "1 only in the pack: photo/dog/000.jpg" in found["notes"][0]
    shutil.rmtree(tmp_path / "mine")
    assert run(["data", "verify", "--benchmark", "mine,icons", *root]) == 0
    assert [item["form"] for item in said(capsys)[0]] == ["pack", "package"]  # type: ignore[attr-defined]
    shard = tmp_path / "mine.pack" / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:2000] + bytes(8) + shard.read_bytes()[2008:])
    assert run(["data", "verify", "--benchmark", "mine", "--data-root", str(tmp_path)]) == 2
    written = capsys.readouterr()
    assert "mine: wrong: shard-00000.arrow is not what was packed" in written.out
    assert written.err.count("\n") == 1
    shard.unlink()
    assert run(["data", "verify", "--benchmark", "mine", "--data-root", str(tmp_path)]) == 2
    assert "shard-00000.arrow is missing" in capsys.readouterr().err


def test_the_hint_of_a_missing_benchmark_is_a_command_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "pack", "--benchmark", "PACS", "--data-root", str(tmp_path)]) == 2
    hints = re.findall(r"'vl2v-orchestrate (data .*?)'", capsys.readouterr().err)
    assert [hint.split()[1] for hint in hints] == ["fetch", "sample"]
    fetch, sample = (hint.replace("DIR", str(tmp_path)).split() for hint in hints)
    assert run([*fetch, "--attempts", "0"]) == 2
    assert "--attempts is 1 or more" in capsys.readouterr().err, "all else was understood"
    assert run([*sample, "--benchmark", "PACS"]) == 0


def test_fetch_ends_in_a_verified_benchmark_or_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, registry = tmp_path / "root", tmp_path / "sources.yaml"
    arguments = ["data", "fetch", "--benchmark", "PACS", "--data-root", str(root), "--sources", str(registry), "--json"]
    with FileServer().running() as server:
        sources = local_sources("PACS", server, downloads("PACS", tmp_path / "scratch"))
        registry.write_text(yaml.safe_dump({"PACS": json.loads(json.dumps(asdict(sources)))}))
        assert run(arguments) == 2, "the look-alike has other counts than the papers' copy"
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: PACS could not be fetched: [archive] what came is not the benchmark")
        assert "By hand:" in line
        assert not (root / "PACS").exists()
        monkeypatch.setattr("trainables.data.formats.verify.known_variants", lambda name: [])
        shutil.rmtree(root)
        capsys.readouterr()
        assert run(arguments) == 0
    (found,), told = said(capsys)  # type: ignore[misc]
    assert (found["accepted"], found["num_images"]) == (True, 56)
    assert [line.split(": ")[0] for line in told.splitlines()] == ["PACS.zip"], "nothing about stages off a terminal"
    assert (root / "PACS" / ".fetch.json").exists()
    assert run(arguments) == 0, "what is there and whole is only verified"


def _registry(file: Path, **benchmarks: BenchmarkSources) -> str:
    file.write_text(yaml.safe_dump({name: json.loads(json.dumps(asdict(one))) for name, one in benchmarks.items()}))
    return str(file)


def test_a_benchmark_that_cannot_be_fetched_does_not_keep_the_others_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.data.formats.verify.known_variants", lambda name: [])
    with FileServer().running() as server:
        known = {name: local_sources(name, server, downloads(name, tmp_path / name)) for name in ("PACS", "VLCS")}
        for path in [path for path in server.files if "acs" in path.lower()]:
            server.files.pop(path)
        registry = _registry(tmp_path / "sources.yaml", **known)
        arguments = ["data", "fetch", "--data-root", str(tmp_path / "root"), "--sources", registry, "--attempts", "1"]
        assert run([*arguments, "--benchmark", "PACS,DomainNet,VLCS", "--json"]) == 2
    (found,), told = said(capsys)  # type: ignore[misc]
    assert found["benchmark"] == "VLCS"
    last = told.splitlines()[-2:]
    assert last[0].startswith("error: PACS could not be fetched: [archive] ")
    assert last[1].startswith("error: unknown benchmark with a source 'DomainNet'")
    assert (tmp_path / "root" / "VLCS" / ".fetch.json").exists()


def test_another_route_and_an_unknown_copy_are_told_by_fetch_and_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--benchmark", "PACS", "--data-root", str(tmp_path / "root")]
    with FileServer().running() as server:
        sources = local_sources("PACS", server, downloads("PACS", tmp_path / "scratch"))
        sources = replace(sources, routes=(sources.routes[0], replace(sources.routes[1], note="splits differ")))
        server.files.pop("/google_drive/PACS.zip")
        fetch = ["data", "fetch", *arguments, "--sources", _registry(tmp_path / "sources.yaml", PACS=sources)]
        assert run(fetch) == 2
        assert "--accept-unknown takes it as it is" in capsys.readouterr().err
        assert run([*fetch, "--accept-unknown"]) == 0
    fetched = capsys.readouterr().out
    assert run(["data", "verify", *arguments]) == 2, "it is still no copy that papers use"
    for printed in (fetched, capsys.readouterr().out):
        assert "PACS: note: fetched by the route 'Hugging Face' from hugging_face flwrlabs/pacs" in printed
        assert "PACS: note: splits differ" in printed
        assert "PACS: note: kept on --accept-unknown" in printed


def test_on_a_terminal_every_stage_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with counters() as counting:
        downloading, stages = counting("bytes"), counting("")
        downloading("PACS.zip", 1_000_000, 2_000_000)
        stages("unpacking PACS.zip", 0, None)
        stages("assembling PACS", 3, 10)
        stages("verifying PACS", 0, None)
        time.sleep(0.3)
    shown = capsys.readouterr().err
    assert "PACS.zip" in shown
    assert "1.0 of 2.0 MB" in shown
    assert "verifying PACS" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fetch", "--benchmark", "PACS"], "--data-root"),
        (["fetch", "--benchmark", "PACSS", "--data-root", "new"], "nearest: PACS"),
        (["fetch", "--benchmark", "PACS", "--data-root", "new", "--attempts", "0"], "--attempts is 1 or more"),
        (["fetch", "--benchmark", "PACS", "--data-root", "s3://bucket/data"], "not an address of object storage"),
        (["pack", "--benchmark", "icons", "--to", "s3://bucket/packs"], "not an address of object storage"),
        (["sample", "s3://bucket/data"], "not an address of object storage"),
        (["verify"], "--benchmark"),
        (["verify", "--benchmark", "PACS"], "--data-root"),
        (["pack"], "--benchmark"),
        (["pack", "--benchmark", "icons"], "--to DIR"),
        (["pack", "--benchmark", "icons", "--to", "new", "--encoding", "jpeg"], "stored or pixels"),
        (["pack", "--benchmark", "icons", "--to", "new", "--max-side", "4"], "max_side is 8 pixels or more"),
        (["where", "--benchmark", "PACS", "--data-root", "no-such-folder"], "no-such-folder"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["data", *arguments]) == 2
    written = capsys.readouterr()
    assert written.err.startswith("error: ")
    assert written.err.count("\n") == 1
    assert expected in written.err
    assert list(tmp_path.iterdir()) == []
