"""The table is written whole or not at all."""

from pathlib import Path

import pytest

from tests.faults.table import BEGIN, END, FAULTS, Table

ROOT = Path(__file__).parents[2]


def test_rows_of_the_same_fault_add_up_and_the_rest_of_the_file_stays(tmp_path):
    path = tmp_path / "doc.md"
    path.write_text(f"above\n{BEGIN}old\n{END}below\n")
    table = Table(("one", "two"))
    table.add("two", "goes on", lost_steps=[0])
    table.add("one", "ends", lost_steps=[1, 3])
    table.add("one", "ends", lost_steps=[2], lost_rows=4)
    table.write(path, "Here.")
    assert path.read_text() == (
        f"above\n{BEGIN}Here.\n\n| fault | times tried | outcome | lost steps | lost data |\n|---|---|---|---|---|\n"
        f"| one | 3 | ends | 6, at most 3 at a time | 4 |\n| two | 1 | goes on | 0 | none |\n{END}below\n"
    )


def test_nothing_is_written_while_a_row_or_a_mark_is_missing(tmp_path):
    path = tmp_path / "doc.md"
    path.write_text(f"{BEGIN}{END}")
    table = Table(("one", "two"))
    table.add("two", "goes on", lost_steps=[0])
    with pytest.raises(ValueError, match="without a row: \\['one'\\]"):
        table.write(path, "")
    table.add("one", "ends", lost_steps=[0])
    with pytest.raises(AssertionError):
        table.add("one", "hangs", lost_steps=[0])
    with pytest.raises(AssertionError):
        table.add("three", "", lost_steps=[0])
    path.write_text(f"{END}{BEGIN}")
    with pytest.raises(ValueError):
        table.write(path, "")
    assert path.read_text() == f"{END}{BEGIN}"


def test_the_document_has_a_line_for_every_fault():
    text = (ROOT / "docs" / "reliability.md").read_text()
    between = text.split(BEGIN)[1].split(END)[0]
    assert [line.split(" | ")[0].strip("| ") for line in between.splitlines() if line.startswith("| ")][1:] == [*FAULTS]
