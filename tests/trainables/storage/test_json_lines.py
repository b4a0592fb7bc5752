from __future__ import annotations

from pathlib import Path

from trainables.storage.json_lines import append_lines, read_lines


def test_lines_are_read_in_order_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    append_lines(path, [{"a": 1}, {"a": 2}])
    append_lines(path, [{"a": 3}])
    assert [line["a"] for line in read_lines(path)] == [1, 2, 3]


def test_no_file_holds_no_line(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "lines.jsonl")) == []


def test_a_torn_end_loses_neither_the_line_before_nor_the_one_after(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    append_lines(path, [{"a": 3}])
    assert [line["a"] for line in read_lines(path)] == [1, 3]


def test_what_is_no_object_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'7\n[1]\n\xff\n{"a": 1}\n')
    assert list(read_lines(path)) == [{"a": 1}]
