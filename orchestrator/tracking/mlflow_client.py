"""What is asked of an MLflow server: whether it is there, a client, a sweep's runs, errors of one kind.

With `orchestrator.tracking.mlflow_tracker` the only file that imports mlflow, and only inside functions: the import
takes two seconds.
"""

from __future__ import annotations

import http.client
import logging
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from orchestrator.tracking.background import TrackingAwayError
from search_spaces.errors import UserError, first_line
from trainables.storage.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

VERSION_TAG = "record_version"
"""Tag written last: the run holds everything of the record with that version."""

HEALTH_TIMEOUT_S = 5.0

ADVICE = "start it, or unset MLFLOW_TRACKING_URI to use a local file"

_QUIET_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""No telemetry; a dead server holds a sweep up for a minute at most. Set only where the user did not."""


SQLITE = "sqlite:///"
UNESCAPED = "".join(chr(code) for code in range(32, 127) if chr(code) not in "%?#")
"""Characters that mean themselves in a path of a SQLite address."""
OPEN_S = 5.0


class TrackingError(RuntimeError):
    """The tracking store did not take what was written; the store on disk is whole, and a later `sync` catches up."""


class DamagedDatabaseError(TrackingError):
    """A database file that is none any more."""


def default_uri(out: Path) -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else a SQLite file below the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri(out)


def local_uri(out: Path) -> str:
    """The SQLite store of an output folder; MLflow decodes what is escaped in an address."""
    return f"{SQLITE}{quote(str(out.resolve() / 'mlflow.db'), safe=UNESCAPED)}"


@contextmanager
def no_twin_folder(uri: str) -> Iterator[None]:
    """Remove the empty folder that MLflow 3.17 makes where it takes an escaped address for a path."""
    twin = Path(uri.removeprefix(SQLITE)).parent
    was_there = not uri.startswith(SQLITE) or twin.exists()
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):
                os.removedirs(twin)


def check_database(uri: str) -> None:
    """Open a SQLite database before MLflow does, which tries for four minutes.

    Raises:
        DamagedDatabaseError: the file is none.
        TrackingError: it cannot be opened.
    """
    if not uri.startswith(SQLITE) or "?" in uri:
        return
    path = unquote(uri.removeprefix(SQLITE))
    try:
        with closing(sqlite3.connect(path, timeout=OPEN_S)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise TrackingError(f"{path}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise DamagedDatabaseError(f"{path}: {error}") from None


def check_reachable(uri: str) -> None:
    """Fail early on a server that does not answer; any HTTP answer counts as life.

    Raises:
        TrackingAwayError: the server does not answer within `HEALTH_TIMEOUT_S`.
        UserError: the address is not one.
    """
    if not is_server(uri):
        return
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        if not parts.hostname:
            raise ValueError("it names no host")
        urllib.request.urlopen(address, timeout=HEALTH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return
    except (ValueError, http.client.InvalidURL) as error:
        # The reason names a part of the address: of a password too, where it is taken for a port.
        raise UserError(redact(f"{uri} is no address of a tracking server ({error}); {ADVICE}")) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise TrackingAwayError(redact(f"tracking server {uri} does not answer ({reason})"), ADVICE) from None


def is_server(uri: str) -> bool:
    """Whether an MLflow server is asked, and not a database or a file."""
    return uri.partition(":")[0].lower() in ("http", "https")


def open_client(uri: str) -> MlflowClient:
    """Open a client; the import happens here because it costs two seconds."""
    for name, value in _QUIET_MLFLOW.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow.store.db.utils", "alembic.runtime.migration", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        from mlflow import MlflowClient

        return guarded(lambda: MlflowClient(tracking_uri=uri))
    except ModuleNotFoundError as error:
        raise TrackingError(f"the address needs the Python package {error.name!r}") from None


def experiment_id(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location))
        except MlflowException:
            # Another process may have made it in between.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} is deleted; restore it or set MLFLOW_EXPERIMENT_NAME")
    return str(experiment.experiment_id)


def find_runs(client: MlflowClient, experiment_id: str, sweep_tag: str, *, kind: str = "", key: str = "") -> list[Run]:
    """Every run of a sweep, by tag, oldest first.

    Args:
        client: of the server.
        experiment_id: where they are.
        sweep_tag: of hexadecimal digits, as `key` is: MLflow's filters have no escapes, and no user's text goes in.
        kind: only those of this kind.
        key: only those of this fold or sweep.
    """
    wanted = {"sweep": sweep_tag, **({"kind": kind} if kind else {}), **({"key": key} if key else {})}
    conditions = " and ".join(f"tags.{name} = '{value}'" for name, value in wanted.items())
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=conditions,
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs.extend(page)
        token = page.token
        if not token:
            return runs[::-1]


def without_doubles(client: MlflowClient, runs: Sequence[Run]) -> list[Run]:
    """One run of each identity, a whole one where there is one; the others are deleted."""
    kept: dict[tuple[str, str, str], Run] = {}
    for run in sorted(runs, key=lambda run: (not run.data.tags.get(VERSION_TAG), run.info.run_id)):
        if kept.setdefault(identity(run), run) is not run:
            client.delete_run(run.info.run_id)
    return list(kept.values())


def identity(run: Run) -> tuple[str, str, str]:
    tags = run.data.tags
    return tags.get("kind", ""), tags.get("group", ""), tags.get("key", "")


def guarded(write: Callable[[], T]) -> T:
    """Turn whatever MLflow, its database or the network raise into one `TrackingError` without secrets."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return write()
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(redact(first_line(error))) from None
