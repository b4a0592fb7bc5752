"""The store's projection into MLflow.

Runs nest sweep -> fold group -> trial and are found by tags, never remembered: projecting an unchanged store again adds
nothing, whoever was killed on the way. Processes that project the same sweep take turns.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from orchestrator.events import ChangedFold
from orchestrator.tracking.background import TrackingAwayError
from orchestrator.tracking.metric_points import SUMMARY, MetricPoint
from orchestrator.tracking.mlflow_client import (
    ADVICE,
    VERSION_TAG,
    DamagedDatabaseError,
    TrackingError,
    check_database,
    check_reachable,
    default_uri,
    experiment_id,
    find_runs,
    guarded,
    identity,
    is_server,
    local_uri,
    no_twin_folder,
    open_client,
    without_doubles,
)
from orchestrator.tracking.projection import SweepProjection
from orchestrator.tracking.provenance import environment, git_state
from orchestrator.tracking.run_records import RunRecord, digest
from search_spaces.errors import UserError
from trainables.storage.json_files import write_json
from trainables.storage.leases import Lease, this_process
from trainables.storage.redaction import redact, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from orchestrator.store.sweep_folder import SweepFolder
    from search_spaces.sweeps import Sweep

EXPERIMENT = "vl2v"
"""Name of the experiment that holds every sweep; `MLFLOW_EXPERIMENT_NAME` replaces it."""

MOST_REFUSED = 20
"""So many refusals are no matter of single records any more."""

SHORT_KEY = 12
"""Characters of the sweep's key in tags and links."""


class Tracker:
    """Projects one sweep's store into MLflow."""

    def __init__(
        self,
        *,
        store: SweepFolder,
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
        own = {"config.json": sweep.to_mapping(), "git.json": git_state(), "environment.json": environment()}
        self._projection = SweepProjection(store, sweep, {**(documents or {}), **own})
        self._written: dict[str, str] = {}
        """Digests of the documents that this process wrote, by run."""
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

    def look(self) -> None:
        """Ask the server for a sign of life, and open nothing.

        Raises:
            TrackingAwayError: the server does not answer.
            UserError: the address is none.
        """
        check_reachable(self.uri)

    def preflight(self) -> None:
        """Open the store and its experiment (and migrate a new database) before anything expensive.

        Raises:
            TrackingAwayError: the server does not answer, or answers with an error.
            UserError: the address cannot be used.
        """
        check_reachable(self.uri)
        try:
            with self._lock:
                self._open()
        except TrackingError as error:
            said = f"cannot use tracking address {redact(self.uri)}: {error}"
            # A server that says what is wrong is one.
            raise TrackingAwayError(said, ADVICE) if is_server(self.uri) else UserError(said) from None

    def sync(self, changed: Collection[ChangedFold] | None = None) -> int:
        """Bring MLflow up to date with the store; unchanged runs are left alone. Returns how many runs were written.

        Processes that do so at the same time take turns.

        Args:
            changed: folds that ended since the last call, the only ones that are read again; None reads everything.

        Raises:
            TrackingError: MLflow did not take it; a later call catches up.
        """
        with self._lock, self._only_writer():
            try:
                # MLflow's own client would try for a while, at every run.
                check_reachable(self.uri)
                self._open()
                return self._project_all(self._projection.records(changed))
            except TrackingAwayError as away:
                raise TrackingError(away.reason) from None
            except UserError as error:
                raise TrackingError(str(error)) from None
            except TrackingError:
                # What is known of the runs may be wrong by now: a server may come back as an older one.
                self._forget()
                raise
            finally:
                # With what a killed writer left in it.
                shutil.rmtree(self._store.documents_folder, ignore_errors=True)

    def _project_all(self, records: Iterable[RunRecord]) -> int:
        """Write every record that can be written; one that cannot holds up no other.

        Raises:
            TrackingError: of the first that could not, once the others are written, or at once where nothing answers.
        """
        written, refused = 0, list[str]()
        for record in records:
            try:
                written += guarded(partial(self._project, record))
            except TrackingError as error:
                check_reachable(self.uri)
                refused.append(f"{record.kind} {record.name}: {error}")
                if len(refused) > MOST_REFUSED:
                    break
        if refused:
            raise TrackingError(redact(f"{len(refused)} runs were refused, the first of them {refused[0]}"))
        return written

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        """Whoever else brings the same sweep's runs up to date waits, on other machines that share the store too."""
        lease = Lease(self._store.shared / f"tracking-{self.sweep_tag}.json", this_process())
        # A store that can only be read is a copy, in which nobody else writes.
        with suppress(OSError):
            lease.take_when_free()
        try:
            yield
        finally:
            with suppress(OSError):
                lease.release()

    def _forget(self) -> None:
        self._client = None
        self._run_ids, self._versions, self._logged, self._written = {}, {}, {}, {}
        self._projection.forget()

    def comparison_address(self, base: str) -> str:
        """The page of an MLflow server at `base` that compares the sweep's trials side by side."""
        with self._lock:
            self._open()
        return comparison_address(base, self._experiment_id, self.sweep_tag)

    def _open(self) -> None:
        if self._client is None:
            self._check_database()
            with no_twin_folder(self.uri):
                client = open_client(self.uri)
                self._experiment_id = guarded(lambda: experiment_id(client, self.experiment, self._artifact_location()))
                runs = guarded(lambda: find_runs(client, self._experiment_id, self.sweep_tag))
            for run in guarded(lambda: without_doubles(client, runs)):
                self._remember(run)
            if self._is_own and runs and not self._store.tracking_artifacts.exists():
                print(f"{self._store.tracking_artifacts} is gone: every run's files are written again", file=sys.stderr)
                self._versions = dict.fromkeys(self._versions, "")
                for run in runs:
                    guarded(partial(client.set_tag, run.info.run_id, VERSION_TAG, ""))
            self._client = client

    @property
    def _is_own(self) -> bool:
        """Whether the folder's own database is written, which can be made again."""
        return self.uri == local_uri(self._store.out)

    def _check_database(self) -> None:
        """Fail at once where a local database cannot be opened; the folder's own is made again where it is damaged."""
        try:
            check_database(self.uri)
        except DamagedDatabaseError as error:
            if not self._is_own:
                raise
            file = self._store.tracking_database
            file.replace(file.with_name(f"{file.name}.damaged"))
            print(f"{error}: it is made again from the folds, and lies beside as {file.name}.damaged", file=sys.stderr)

    def _artifact_location(self) -> str | None:
        if is_server(self.uri):
            return None
        # A server decides for itself; a database would choose the working folder.
        return self._store.tracking_artifacts.resolve().as_uri()

    def _remember(self, run: Run) -> None:
        self._run_ids[identity(run)] = run.info.run_id
        self._versions[run.info.run_id] = run.data.tags.get(VERSION_TAG, "")

    def _project(self, record: RunRecord) -> bool:
        """Write a record's run unless it is up to date already; True where it was written."""
        assert self._client is not None
        known = self._run_ids.get((record.kind, record.group, record.key))
        if known is not None and self._versions.get(known) == record.version:
            return False
        run = self._find(record) or self._create(record)
        version = run.data.tags.get(VERSION_TAG, "")
        if version == record.version:
            self._remember(run)
            return False
        run_id = run.info.run_id
        if run_id not in self._logged or self._versions.get(run_id) != version:
            # Some other process wrote into it, or this one was cut off.
            self._read_points(run)
        if version:
            # Until it is whole again.
            self._client.set_tag(run_id, VERSION_TAG, "")
        self._write(run, record)
        return True

    def _find(self, record: RunRecord) -> Run | None:
        """The record's run as the server has it now."""
        assert self._client is not None
        # A group's key is its name, which holds what users call their domains.
        key = "" if record.kind == "group" else record.key
        found = find_runs(self._client, self._experiment_id, self.sweep_tag, kind=record.kind, key=key)
        own = [run for run in found if identity(run) == (record.kind, record.group, record.key)]
        runs = without_doubles(self._client, own)
        return runs[0] if runs else None

    def _create(self, record: RunRecord) -> Run:
        assert self._client is not None
        tags = {"kind": record.kind, "group": record.group, "key": record.key, "sweep": self.sweep_tag}
        parents = {"trial": ("group", record.group, record.group), "group": ("sweep", "", self._sweep.key)}
        if record.kind in parents:
            parent = self._run_ids.get(parents[record.kind])
            if parent is None:
                raise TrackingError("the run that it belongs to was refused")
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(
            self._experiment_id, start_time=record.start_time, tags=tags, run_name=redact(record.name)
        )
        # A server that is killed may have made the run before MLflow's client asked for it once more.
        run = self._find(record) or run
        self._remember(run)
        return run

    def _read_points(self, run: Run) -> None:
        """Read back which (name, step) are in a run already."""
        assert self._client is not None
        run_id = run.info.run_id
        self._logged[run_id] = {
            (name, point.step) for name in run.data.metrics for point in self._client.get_metric_history(run_id, name)
        }

    def _write(self, run: Run, record: RunRecord) -> None:
        from mlflow.entities import Metric, Param, RunTag

        assert self._client is not None
        run_id, present = run.info.run_id, run.data.params
        fresh = _once(record.metrics(), self._logged[run_id])
        parameters = {name: redact(str(value)) for name, value in record.parameters.items() if name not in present}
        self._client.log_batch(
            run_id,
            metrics=[Metric(point.name, point.value, point.timestamp, point.step) for point in fresh],
            params=[Param(name, value) for name, value in parameters.items()],
            tags=[RunTag(name, redact(value)) for name, value in record.tags.items()],
        )
        self._logged[run_id] |= {(point.name, point.step) for point in fresh}
        documents = digest(record.documents)
        if self._written.get(run_id) != documents:
            for name, content in record.documents.items():
                self._write_document(run_id, name, redacted(content))
            self._written[run_id] = documents
        for path in record.files:
            self._client.log_artifact(run_id, str(path))
        if record.status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, status=record.status, end_time=record.end_time)
        self._client.set_tag(run_id, VERSION_TAG, record.version)
        self._remember(run)
        self._versions[run_id] = record.version

    def _write_document(self, run_id: str, name: str, content: Mapping[str, Any]) -> None:
        """Log plain values as a file; MLflow's own way leaves a temporary folder where this process is killed."""
        assert self._client is not None
        file = self._store.documents_folder / name
        write_json(file, content)
        self._client.log_artifact(run_id, str(file))


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


def _once(points: Iterable[MetricPoint], logged: set[tuple[str, int]]) -> list[MetricPoint]:
    """The points that are not written yet, each (name, step) once."""
    fresh: dict[tuple[str, int], MetricPoint] = {}
    for point in points:
        if (point.name, point.step) not in logged:
            fresh.setdefault((point.name, point.step), point)
    return list(fresh.values())
