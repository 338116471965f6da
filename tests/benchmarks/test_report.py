import json
import re
from pathlib import Path

import pandas as pd

from benchmarks.report import CLASSES, MEASURED, large_report

RECORDED = Path(__file__).parents[2] / "benchmarks/report.csv"


def test_report_has_the_cards_and_pictures_that_were_asked_for(tmp_path):
    pictures = large_report(tmp_path / "report.html", 30)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    data = json.loads(text)
    assert len(data["cards"]) == 30
    assert all(len(card["levels"]) == 5 for card in data["cards"])
    assert pictures == len(data["images"]) > 30 * 5
    assert {card["target"] for card in data["cards"]} <= set(CLASSES)


def test_recorded_measurements_have_the_columns_of_the_table():
    (row,) = pd.read_csv(RECORDED).to_dict("records")
    assert list(row) == list(MEASURED)
    assert row["cards"] == 5000
    assert row["console_messages"] == 0
