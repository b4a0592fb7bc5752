"""Cells, worked out by hand."""

from __future__ import annotations

import math

import pytest

from orchestrator.report.cells import MISSING, Cell, average


def test_both_error_bars_of_three_seeds() -> None:
    cell = Cell(values=(0.5, 0.6, 0.7))
    assert cell.mean == pytest.approx(60.0)
    assert cell.domainbed_error == pytest.approx(100 * math.sqrt(0.02 / 3) / math.sqrt(3))
    assert cell.unbiased_error == pytest.approx(100 * 0.1 / math.sqrt(3))
    assert cell.unbiased_error == pytest.approx(1.2247449 * (cell.domainbed_error or 0.0))
    assert cell.text("domainbed") == "60.0 ± 4.7"
    assert cell.text("unbiased") == "60.0 ± 5.8"


def test_one_seed_has_no_unbiased_error() -> None:
    cell = Cell(values=(0.5,))
    assert cell.domainbed_error == 0.0
    assert cell.unbiased_error is None
    assert (cell.text("domainbed"), cell.text("unbiased")) == ("50.0 ± 0.0", "50.0")


@pytest.mark.parametrize("values", [(), (None,), (0.5, None)])
def test_a_missing_seed_makes_the_cell_x(values: tuple[float | None, ...]) -> None:
    cell = Cell(values=values)
    assert cell.text("domainbed") == cell.text("unbiased") == MISSING
    assert cell.mean is cell.domainbed_error is cell.unbiased_error is None


def test_an_average_has_its_error_over_seeds() -> None:
    cells = [Cell(values=(0.2, 0.4)), Cell(values=(0.6, 0.4))]
    assert average(cells).values == pytest.approx((0.4, 0.4))
    assert average(cells).text("domainbed") == "40.0 ± 0.0"
    assert not average([*cells, Cell(values=(0.1, None))]).is_whole
    assert not average([*cells, Cell(values=(0.1,))]).is_whole
    assert not average([]).is_whole
