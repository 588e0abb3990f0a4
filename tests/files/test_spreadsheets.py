from __future__ import annotations

import csv
import io

from medvit.files.spreadsheets import csv_text


def test_what_a_spreadsheet_would_compute_is_text_and_numbers_stay() -> None:
    cells = ["=HYPERLINK(1)", "+cmd", "-x", "@sum", "\tx", "-1.5", "+3", "-inf", "plain", -2.5]
    (row,) = list(csv.reader(io.StringIO(csv_text(["a"] * len(cells), [cells]))))[1:]
    assert row == ["'=HYPERLINK(1)", "'+cmd", "'-x", "'@sum", "'\tx", "-1.5", "+3", "-inf", "plain", "-2.5"]
    again = csv_text(["a"], [[row[0]]])
    assert again == "a\n'=HYPERLINK(1)\n"
