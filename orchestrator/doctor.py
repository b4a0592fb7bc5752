"""What is here and what is missing: Python, packages, CUDA, memory, disk, Ray, tracking and data."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from orchestrator.events import Finding, FindingState
from orchestrator.plan.devices import nvidia_gpus
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError, first_line

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "safetensors",
    "numpy",
    "pillow",
    "pyarrow",
    "optuna",
    "ray",
    "mlflow",
    "typer",
    "rich",
)
LEAST_PYTHON = (3, 11)
LEAST_MEMORY_GIB = 6.0
"""The demo stays below 8 GiB with everything that runs beside it."""
LEAST_DISK_GIB = 2.0
_GIB = 1024.0**3


def examine(
    *,
    data_root: str | None = None,
    out: str = "runs",
    thorough: bool = False,
    address: str | None = None,
) -> list[Finding]:
    """Look at everything; nothing is changed on disk.

    Args:
        data_root: folder whose benchmarks are listed.
        out: output folder whose disk is looked at.
        thorough: also load torch (in a process of its own) and start or reach Ray.
        address: Ray cluster to reach.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        check_python,
        check_packages,
        check_gpus,
        check_memory,
        lambda: check_disk(Path(out)),
        lambda: check_tracking(Path(out)),
        lambda: check_data_root(data_root),
    ]
    if thorough:
        checks += [check_torch, lambda: check_ray(address)]
    return [finding for check in checks for finding in check()]


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    version, least = platform.python_version(), ".".join(map(str, LEAST_PYTHON))
    state: FindingState = "ok" if sys.version_info >= LEAST_PYTHON else "wrong"
    yield Finding(state=state, subject="python", text=f"{version} ({least} or later is needed)")


def check_packages() -> Iterator[Finding]:
    """Installed versions, without importing anything."""
    for name in PACKAGES:
        try:
            yield Finding(state="ok", subject=name, text=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(state="wrong", subject=name, text="not installed; run `make test` or `pip install -e .`")


def check_torch() -> Iterator[Finding]:
    """Whether torch loads, and how many GPUs it sees; in a process of its own, so that it stays unloaded here."""
    program = "import torch; print(torch.__version__, torch.cuda.is_available(), torch.cuda.device_count())"
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(state="wrong", subject="torch loads", text=str(error))
        return
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["it ends at once"])[-1]
        yield Finding(state="wrong", subject="torch loads", text=last_line)
        return
    version, available, count = done.stdout.split()
    text = f"{version}, CUDA available: {available}, GPUs: {count}"
    if available == "True":
        yield Finding(state="ok", subject="torch loads", text=text)
    elif any(finding.state == "ok" for finding in check_gpus()) and not _hides_gpus():
        text += "; nvidia-smi lists a GPU that this torch cannot use, and folds that ask for one are refused"
        yield Finding(state="wrong", subject="torch loads", text=text)
    else:
        yield Finding(state="note", subject="torch loads", text=text)


def _hides_gpus() -> bool:
    """Whether the user keeps the GPUs from programs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def check_gpus() -> Iterator[Finding]:
    """GPUs as the driver's own tool lists them."""
    if shutil.which("nvidia-smi") is None:
        yield Finding(state="note", subject="gpu", text="none found (no nvidia-smi); folds run on the CPU")
        return
    try:
        gpus = nvidia_gpus()
    except UserError as error:
        yield Finding(state="note", subject="gpu", text=f"{error}; folds run on the CPU")
        return
    if not gpus:
        yield Finding(state="note", subject="gpu", text="nvidia-smi lists none; folds run on the CPU")
    for line in gpus:
        yield Finding(state="ok", subject="gpu", text=line.strip())


def check_memory() -> Iterator[Finding]:
    """CPUs and memory of this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(state="ok", subject="cpu", text=f"{cpus} usable")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    state: FindingState = "ok" if total >= LEAST_MEMORY_GIB else "note"
    yield Finding(
        state=state, subject="memory", text=f"{total:.1f} GiB (the demo wants {LEAST_MEMORY_GIB:.0f} or more)"
    )


def check_disk(out: Path) -> Iterator[Finding]:
    """Free space where the output would go, and whether it can be written."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / _GIB
    if not os.access(place, os.W_OK) or not place.is_dir():
        yield Finding(state="wrong", subject="output", text=f"{out} cannot be written ({place} refuses)")
        return
    state: FindingState = "ok" if free >= LEAST_DISK_GIB else "note"
    yield Finding(state=state, subject="output", text=f"{out}: {free:.1f} GiB free")


def check_tracking(out: Path) -> Iterator[Finding]:
    """Whether a tracking server answers; a local file needs no server."""
    from orchestrator.tracking.mlflow_client import check_reachable, default_uri
    from trainables.storage.redaction import redact

    uri = default_uri(out)
    try:
        check_reachable(uri)
    except UserError as error:
        yield Finding(state="wrong", subject="tracking", text=str(error))
        return
    local = "" if os.environ.get("MLFLOW_TRACKING_URI") else " (MLFLOW_TRACKING_URI is not set)"
    yield Finding(state="ok", subject="tracking", text=f"{redact(uri)}{local}")


def check_data_root(data_root: str | None) -> Iterator[Finding]:
    """Which benchmarks lie below the data root."""
    yield Finding(state="ok", subject="icons", text="comes with the package")
    if data_root is None:
        yield Finding(state="note", subject="data root", text="not given; --data-root DIR lists what lies below it")
        return
    root = Path(data_root).expanduser()
    if not root.is_dir():
        yield Finding(state="wrong", subject="data root", text=f"{root} is not a folder")
        return
    for benchmark in BENCHMARKS.values():
        if benchmark.name == "icons":
            continue
        folder = root / benchmark.folder
        if not folder.is_dir():
            yield Finding(state="note", subject=benchmark.name, text=f"no folder {folder}")
            continue
        missing = [name for name in benchmark.domain_names if not (folder / name).is_dir()]
        if missing:
            yield Finding(state="wrong", subject=benchmark.name, text=f"{folder} lacks {', '.join(missing)}")
        else:
            yield Finding(state="ok", subject=benchmark.name, text=f"{folder}: {len(benchmark.domains)} domains")
    known = {benchmark.folder.split("/")[0] for benchmark in BENCHMARKS.values()}
    others = sorted(path.name for path in root.iterdir() if path.name not in known and _has_domains(path))
    if others:
        yield Finding(state="ok", subject="other folders", text=f"{', '.join(others[:10])}: usable as --benchmark NAME")


def _has_domains(folder: Path) -> bool:
    """Whether a folder looks like FOLDER/DOMAIN/CLASS/image: two folders or more that hold folders."""
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return False
    domains = [path for path in folder.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK)]
    return sum(any(inner.is_dir() for inner in domain.iterdir()) for domain in domains) >= 2


def check_ray(address: str | None) -> Iterator[Finding]:
    """Start a local Ray, or reach the cluster; takes some seconds."""
    from orchestrator.execution.cluster import connect

    try:
        with connect(address=address) as cluster:
            where = "here" if cluster.is_local else "the cluster"
            held = cluster.resources()
            text = f"{where}: {held.get('CPU', 0.0):g} CPUs, {held.get('GPU', 0.0):g} GPUs"
            yield Finding(state="ok", subject="ray starts", text=text)
    except (UserError, OSError, RuntimeError) as error:
        yield Finding(state="wrong", subject="ray starts", text=first_line(error))
