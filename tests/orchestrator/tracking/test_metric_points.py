"""A finished fold's numbers as metric points: what it asked the teacher, lost answers beside it."""

from __future__ import annotations

from orchestrator.store.results import FoldResult, parse_result
from orchestrator.tracking.metric_points import price_tag, query_metrics, running_best

ASKED = {"images": 90, "texts": 10, "unique_images": 40, "bytes": 1_000, "unconfirmed": 4}


def _result(finished: float, queries: dict[str, int]) -> FoldResult:
    return parse_result(
        {
            "key": "k",
            "source_validation": {"accuracy": 0.5},
            "teacher_queries": queries,
            "seconds": 1.0,
            "started": finished - 1.0,
            "finished": finished,
        }
    )


def test_every_count_of_a_fold_has_a_metric() -> None:
    assert query_metrics(_result(1.0, ASKED)) == {
        "teacher/image_queries": 90.0,
        "teacher/text_queries": 10.0,
        "teacher/unique_images": 40.0,
        "teacher/bytes": 1_000.0,
        "teacher/unconfirmed": 4.0,
    }
    older = query_metrics(_result(1.0, {"images": 1, "texts": 2}))
    assert (older["teacher/bytes"], older["teacher/unconfirmed"]) == (0.0, 0.0), "folds of an older trainer"


def test_counts_of_folds_add_up_save_those_that_may_be_the_same_images() -> None:
    points = running_best([_result(1.0, ASKED), _result(2.0, ASKED)])
    last = {point.name: point.value for point in points if point.step == 1}
    assert (last["teacher/bytes"], last["teacher/unconfirmed"]) == (2_000.0, 8.0)
    assert "teacher/unique_images" not in last


def test_the_price_of_all_queries_is_a_tag() -> None:
    results = [_result(1.0, ASKED), _result(2.0, ASKED)]
    assert price_tag(results, 2.0) == {"teacher_price": "0.4"}
    assert price_tag(results, None) == {}


def test_a_fold_that_is_gone_keeps_its_place() -> None:
    points = running_best([_result(1.0, ASKED), None, _result(2.0, ASKED)])
    assert [point.step for point in points if point.name == "finished_folds"] == [0, 2]
