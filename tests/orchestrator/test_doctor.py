"""The doctor's findings, on machines that lack something."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator import doctor
from orchestrator.cli import run
from orchestrator.doctor import Finding, examine
from orchestrator.tracking.mlflow_ui import free_port


@pytest.fixture(autouse=True)
def no_tracking_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def about(findings: list[Finding], subject: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.subject == subject)
    return finding


def test_this_machine_is_well(tmp_path: Path) -> None:
    findings = examine(out=str(tmp_path / "not" / "yet"))
    assert [finding for finding in findings if finding.state == "wrong"] == []
    assert about(findings, "torch").text == metadata.version("torch")
    assert not (tmp_path / "not").exists()


def test_a_missing_package_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    (finding,) = doctor.check_packages()
    assert finding.state == "wrong"


def test_a_machine_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (finding,) = doctor.check_gpus()
    assert (finding.state, "CPU" in finding.text) == ("note", True)


def test_a_broken_torch_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: libcudart.so.13' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    (finding,) = doctor.check_torch()
    assert (finding.state, finding.text) == ("wrong", "ImportError: libcudart.so.13")


@pytest.mark.parametrize(
    ("gpus", "hidden", "state"), [("NVIDIA X, 8 MiB", "0", "wrong"), ("NVIDIA X, 8 MiB", "", "note"), ("", "0", "note")]
)
def test_a_gpu_that_torch_cannot_use_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: str, hidden: str, state: str
) -> None:
    for name, said in (("python", "2.13.0+cpu False 0"), ("nvidia-smi", gpus)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    (finding,) = doctor.check_torch()
    assert finding.state == state
    assert ("cannot use" in finding.text) == (state == "wrong")


def test_an_output_below_a_file_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = doctor.check_disk(tmp_path / "file" / "out")
    assert finding.state == "wrong"


@pytest.mark.parametrize("password", ["pw1234", "p@ssw0rd", "pa/ssw0rd", "1/ssw0rd", "pa?ss#w0rd", "p%40ss w0rd"])
def test_a_silent_tracking_server_is_wrong_and_its_password_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{password}@127.0.0.1:{free_port()}")
    (finding,) = doctor.check_tracking(tmp_path)
    assert finding.state == "wrong"
    assert not [part for part in ("pw1", "p@s", "pa/", "ssw", "w0r", "'pa'", "pa?") if part in finding.text]


def test_what_lies_below_a_data_root(tmp_path: Path) -> None:
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        (tmp_path / "PACS" / domain).mkdir(parents=True)
    (tmp_path / "VLCS" / "Caltech101").mkdir(parents=True)
    for domain in ("day", "night"):
        (tmp_path / "pets" / domain / "cat").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    findings = list(doctor.check_data_root(str(tmp_path)))
    assert about(findings, "PACS").state == "ok"
    assert about(findings, "VLCS").state == "wrong"
    assert "LabelMe" in about(findings, "VLCS").text
    assert about(findings, "OfficeHome").state == "note"
    assert about(findings, "other folders").text.startswith("pets:")


def test_the_command_ends_with_2_when_something_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--out", str(tmp_path), "--json"]) == 0
    assert {"state", "subject", "text"} == set(json.loads(capsys.readouterr().out)[0])
    assert run(["doctor", "--out", str(tmp_path), "--data-root", str(tmp_path / "none")]) == 2
    assert "wrong data root" in capsys.readouterr().out


@pytest.mark.slow
def test_a_thorough_look_starts_ray_and_torch(tmp_path: Path) -> None:
    findings = examine(out=str(tmp_path), thorough=True)
    assert about(findings, "ray starts").state == "ok"
    assert "CPUs" in about(findings, "ray starts").text
    assert about(findings, "torch loads").text.startswith(metadata.version("torch").split("+")[0])
