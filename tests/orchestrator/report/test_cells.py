"""Cells, worked out by hand."""

from __future__ import annotations

import math

import pytest

from orchestrator.report.cells import ERROR_BARS, MISSING, Cell, average, format_mean, t_quantile


def test_the_error_bars_of_three_seeds() -> None:
    cell = Cell(values=(0.5, 0.6, 0.7))
    assert cell.mean == pytest.approx(60.0)
    assert cell.domainbed_error == pytest.approx(100 * math.sqrt(0.02 / 3) / math.sqrt(3))
    assert cell.sample_error == pytest.approx(100 * 0.1 / math.sqrt(3))
    assert cell.sample_error == pytest.approx(1.2247449 * (cell.domainbed_error or 0.0))
    assert cell.t95_error == pytest.approx(4.3026527 * (cell.sample_error or 0.0))
    assert cell.text("domainbed") == "60.0 ± 4.7"
    assert cell.text("sample") == "60.0 ± 5.8"
    assert cell.text("t95") == "60.0 ± 24.8"


def test_one_seed_has_no_error_of_any_kind() -> None:
    cell = Cell(values=(0.5,))
    for bar in ERROR_BARS:
        assert cell.error(bar) is None
        assert cell.text(bar) == "50.0"
    assert format_mean([0.5])[2] == "50.0 +/- 0.0", "DomainBed's own text"


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (4, 2.7764451), (9, 2.2621572), (30, 2.0422725), (99, 1.9842169)],
)
def test_t_quantiles_are_those_of_the_tables(freedom: int, t: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(t, abs=1e-7)


@pytest.mark.parametrize("values", [(), (None,), (0.5, None)])
def test_a_missing_seed_makes_the_cell_x(values: tuple[float | None, ...]) -> None:
    cell = Cell(values=values)
    assert {cell.text(bar) for bar in ERROR_BARS} == {MISSING}
    assert cell.mean is cell.domainbed_error is cell.sample_error is cell.t95_error is None


def test_an_average_has_its_error_over_seeds() -> None:
    cells = [Cell(values=(0.2, 0.4)), Cell(values=(0.6, 0.4))]
    assert average(cells).values == pytest.approx((0.4, 0.4))
    assert average(cells).text("domainbed") == "40.0 ± 0.0"
    assert not average([*cells, Cell(values=(0.1, None))]).is_whole
    assert not average([*cells, Cell(values=(0.1,))]).is_whole
    assert not average([]).is_whole
