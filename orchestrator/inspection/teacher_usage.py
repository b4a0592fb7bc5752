"""What the ledgers of a store say of a sweep: queries asked by its folds, whatever became of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrator.store.sweep_folder import SweepFolder
from trainables.storage.json_files import read_json
from trainables.teacher.ledger import QueryCounts, query_counts


def sweep_queries(store: SweepFolder) -> QueryCounts:
    """Queries of every fold that a sweep names; different images are counted within each benchmark."""
    totals: dict[str, int] = asdict(QueryCounts())
    keys: dict[str, list[str]] = {}
    for group in store.groups():
        keys.setdefault(group.benchmark, []).extend(planned.key for planned in store.records.planned_folds(group.name))
    for own in keys.values():
        for name, value in asdict(query_counts(store.folds.queries_folder, own)).items():
            totals[name] += value
    return QueryCounts(**totals)


def ledger_line(sweep: QueryCounts, store: QueryCounts, price_per_1000: float | None = None) -> str:
    """`teacher queries: 1,200 images (300 different) and 14 texts by this sweep's folds; ... by the whole store`."""

    def asked(counts: QueryCounts, different: str = "") -> str:
        price = "" if price_per_1000 is None else f", price {counts.price(price_per_1000):,.2f}"
        lost = f", {counts.unconfirmed:,} unconfirmed" if counts.unconfirmed else ""
        return f"{counts.images:,} images{different} and {counts.texts:,} texts{lost}{price}"

    different = f" ({sweep.unique_images:,} different)" if sweep.unique_images else ""
    return f"teacher queries: {asked(sweep, different)} by this sweep's folds; {asked(store)} by the whole store"


def stored_answers(store: SweepFolder) -> list[dict[str, Any]]:
    """One row for each embedding store: what its key stands for, and what is there."""
    rows = []
    for described in sorted(store.folds.embeddings_folder.glob("*/store.json")):
        content = read_json(described) or {}
        shards = list(described.parent.glob("d*.arrow"))
        views = {file.name.split("-")[1] for file in shards}
        of = str(content["teacher_fingerprint"])
        rows.append(
            {
                "key": str(content["key"]),
                "of": of.partition(" drawn")[0][:24] if of.startswith("features of") else f"teacher {of[:12]}",
                "teacher_fingerprint": of,
                "views": f"views:{len(views)}" if content["view"] == "views" else "clean",
                "image_size": int(content["image_size"]),
                "shards": len(shards),
                "bytes": sum(file.stat().st_size for file in described.parent.glob("*.arrow")),
                "manifest": str(content["manifest"]),
            }
        )
    return rows
