"""The store's projection into MLflow; the only file that imports mlflow.

Runs nest sweep -> fold group -> trial and are found by tags, never remembered: projecting an unchanged store again adds
nothing. There is one writer, the driver.
"""

from __future__ import annotations

import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from orchestrator.tracking_context import environment, git_state, redact, redacted
from orchestrator.tracking_metrics import SUMMARY, MetricPoint
from orchestrator.tracking_records import RunRecord, sweep_records
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from orchestrator.store import Store
    from search_spaces.sweeps import Sweep

T = TypeVar("T")

EXPERIMENT = "vl2v"
"""Name of the experiment that holds every sweep; `MLFLOW_EXPERIMENT_NAME` replaces it."""

VERSION_TAG = "record_version"
"""Tag written last: the run holds everything of the record with that version."""

HEALTH_TIMEOUT_S = 5.0
SHORT_KEY = 12
"""Characters of the sweep's key in tags and links."""

_QUIET_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""No telemetry; a dead server holds a sweep up for a minute at most. Set only where the user did not."""


class TrackingError(RuntimeError):
    """The tracking store did not take what was written; the store on disk is whole, and a later `sync` catches up."""


def default_uri(out: Path) -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else a SQLite file below the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri(out)


def local_uri(out: Path) -> str:
    """The SQLite store of an output folder."""
    return f"sqlite:///{out.resolve() / 'mlflow.db'}"


def check_reachable(uri: str) -> None:
    """Fail early on a server that does not answer; any HTTP answer counts as life.

    Raises:
        UserError: the server does not answer within `HEALTH_TIMEOUT_S`, or the address is not one.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    host = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        urllib.request.urlopen(address, timeout=HEALTH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"tracking server {redact(uri)} does not answer ({reason}); start it, or unset MLFLOW_TRACKING_URI "
            "to use a local file"
        ) from None


class Tracker:
    """Projects one sweep's store into MLflow."""

    def __init__(
        self,
        *,
        store: Store,
        sweep: Sweep,
        uri: str | None = None,
        experiment: str | None = None,
        documents: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember where to write; nothing is opened before `preflight` or `sync`.

        Args:
            store: what is projected.
            sweep: whose folds are projected.
            uri: tracking address; None is `default_uri` of the store's folder.
            experiment: name of the experiment; None is `EXPERIMENT`.
            documents: artifact name -> plain values, such as the plan, added to the sweep's run.
        """
        self.uri = uri or default_uri(store.out)
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        self._store, self._sweep = store, sweep
        self._documents = {
            **(documents or {}),
            "config.json": sweep.to_mapping(),
            "git.json": git_state(),
            "environment.json": environment(),
        }
        self._lock = threading.Lock()
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._run_ids: dict[tuple[str, str, str], str] = {}
        self._versions: dict[str, str] = {}
        self._logged: dict[str, set[tuple[str, int]]] = {}

    @property
    def sweep_tag(self) -> str:
        """What every run of the sweep carries as its tag `sweep`."""
        return self._sweep.key[:SHORT_KEY]

    def preflight(self) -> None:
        """Open the store and its experiment (and migrate a new database) before anything expensive.

        Raises:
            UserError: the server does not answer, or the address cannot be used.
        """
        check_reachable(self.uri)
        try:
            with self._lock:
                self._open()
        except TrackingError as error:
            raise UserError(f"cannot use tracking address {redact(self.uri)}: {error}") from None

    def sync(self) -> None:
        """Bring MLflow up to date with the store; unchanged runs are left alone.

        Raises:
            TrackingError: MLflow did not take it; a later call catches up.
        """
        with self._lock:
            self._open()
            for record in sweep_records(self._store, self._sweep, self._documents):
                _guarded(partial(self._project, record))

    def comparison_address(self, base: str) -> str:
        """The page of an MLflow server at `base` that compares the sweep's trials side by side."""
        with self._lock:
            self._open()
        return comparison_address(base, self._experiment_id, self.sweep_tag)

    def _open(self) -> None:
        if self._client is None:
            client = _client(self.uri)
            self._experiment_id = _guarded(lambda: _experiment_id(client, self.experiment, self._artifact_location()))
            for run in _guarded(lambda: find_runs(client, self._experiment_id, self.sweep_tag)):
                self._remember(run)
            self._client = client

    def _artifact_location(self) -> str | None:
        if urlsplit(self.uri).scheme in ("http", "https"):
            return None
        # A server decides for itself; a database would choose the working folder.
        return self._store.tracking_artifacts.resolve().as_uri()

    def _remember(self, run: Run) -> None:
        tags = run.data.tags
        self._run_ids[tags.get("kind", ""), tags.get("group", ""), tags.get("key", "")] = run.info.run_id
        self._versions[run.info.run_id] = tags.get(VERSION_TAG, "")

    def _project(self, record: RunRecord) -> None:
        assert self._client is not None
        run_id = self._run_ids.get((record.kind, record.group, record.key))
        if run_id is not None and self._versions.get(run_id) == record.version:
            return
        if run_id is None:
            run_id = self._create(record)
        else:
            self._forget_unknown_points(run_id)
        self._write(run_id, record)

    def _create(self, record: RunRecord) -> str:
        assert self._client is not None
        tags = {"kind": record.kind, "group": record.group, "key": record.key, "sweep": self.sweep_tag}
        if record.kind == "trial":
            tags["mlflow.parentRunId"] = self._run_ids["group", record.group, record.group]
        elif record.kind == "group":
            tags["mlflow.parentRunId"] = self._run_ids["sweep", "", self._sweep.key]
        run = self._client.create_run(
            self._experiment_id, start_time=record.start_time, tags=tags, run_name=redact(record.name)
        )
        self._remember(run)
        self._logged[run.info.run_id] = set()
        return str(run.info.run_id)

    def _forget_unknown_points(self, run_id: str) -> None:
        """Read back which (name, step) an earlier process already wrote into this run."""
        assert self._client is not None
        if run_id not in self._logged:
            names = self._client.get_run(run_id).data.metrics
            self._logged[run_id] = {
                (name, point.step) for name in names for point in self._client.get_metric_history(run_id, name)
            }

    def _write(self, run_id: str, record: RunRecord) -> None:
        from mlflow.entities import Metric, Param, RunTag

        assert self._client is not None
        fresh = _once(record.metrics(), self._logged[run_id])
        present = self._client.get_run(run_id).data.params
        parameters = {name: redact(str(value)) for name, value in record.parameters.items() if name not in present}
        self._client.log_batch(
            run_id,
            metrics=[Metric(point.name, point.value, point.timestamp, point.step) for point in fresh],
            params=[Param(name, value) for name, value in parameters.items()],
            tags=[RunTag(name, redact(value)) for name, value in record.tags.items()],
        )
        self._logged[run_id] |= {(point.name, point.step) for point in fresh}
        for name, content in record.documents.items():
            self._client.log_dict(run_id, redacted(content), name)
        for path in record.files:
            self._client.log_artifact(run_id, str(path))
        if record.status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, status=record.status, end_time=record.end_time)
        self._client.set_tag(run_id, VERSION_TAG, record.version)
        self._versions[run_id] = record.version


def comparison_address(base: str, experiment_id: str, sweep_tag: str) -> str:
    """The trials of a sweep as charts, best first; the teacher's own rows have no curves and are left out.

    Without the filter MLflow shows one collapsed parent run; sorted by time it adds the parents of what it found.
    """
    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"tags.kind = 'trial' and tags.sweep = '{sweep_tag}' and params.method != 'zero_shot'",
        "orderByKey": f"metrics.`{SUMMARY}`",
        "orderByAsc": "false",
        "compareRunsMode": "CHART",
    }
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def find_runs(client: MlflowClient, experiment_id: str, sweep_tag: str) -> list[Run]:
    """Every run of a sweep, by tag, oldest first."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=f"tags.sweep = '{sweep_tag}'",
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs.extend(page)
        token = page.token
        if not token:
            return runs[::-1]


def _once(points: Iterable[MetricPoint], logged: set[tuple[str, int]]) -> list[MetricPoint]:
    """The points that are not written yet, each (name, step) once."""
    fresh: dict[tuple[str, int], MetricPoint] = {}
    for point in points:
        if (point.name, point.step) not in logged:
            fresh.setdefault((point.name, point.step), point)
    return list(fresh.values())


def _client(uri: str) -> MlflowClient:
    """Open a client; the import happens here because it costs two seconds."""
    for name, value in _QUIET_MLFLOW.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow.store.db.utils", "alembic.runtime.migration", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        from mlflow import MlflowClient

        return _guarded(lambda: MlflowClient(tracking_uri=uri))
    except ModuleNotFoundError as error:
        raise TrackingError(f"the address needs the Python package {error.name!r}") from None


def _experiment_id(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=artifact_location))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} is deleted; restore it or set MLFLOW_EXPERIMENT_NAME")
    return str(experiment.experiment_id)


def _guarded(write: Callable[[], T]) -> T:
    """Turn whatever MLflow, its database or the network raise into one `TrackingError` without secrets."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return write()
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrackingError(redact(first_line)) from None
