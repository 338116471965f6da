import json

from click.testing import CliRunner

from stages.compare import main as compare
from stages.summary import main as summary

RESULT = {
    "baseline": {"mean": 0.6, "low": 0.58, "high": 0.62, "n": 5},
    "augmented": {"mean": 0.65, "low": 0.64, "high": 0.66, "n": 5},
    "gain": {"mean": 0.05, "low": 0.04, "high": 0.06, "n": 5},
    "images": 500,
    "mean_r": 0.7,
    "label_consistency": None,
}


def write(folder, **changes):
    (folder / "metrics").mkdir(parents=True)
    (folder / "metrics/evaluate.json").write_text(json.dumps(RESULT | changes))
    return folder


def test_table_shows_gain_with_interval_and_n(tmp_path):
    result = CliRunner().invoke(summary, ["--root", str(write(tmp_path))])
    assert "+0.050  (95% interval +0.040 to +0.060, n = 5 tasks)" in result.output
    assert "not measured" in result.output


def test_table_without_metrics_says_how_to_make_them(tmp_path):
    result = CliRunner().invoke(summary, ["--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "run `dvc repro`" in result.output


def judge(tmp_path, **changes):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", **changes)
    folders = ["--committed", str(old / "metrics"), "--made", str(new / "metrics")]
    return CliRunner().invoke(compare, folders)


def test_equal_metrics_reproduce(tmp_path):
    assert judge(tmp_path).exit_code == 0


def test_rounding_between_machines_is_tolerated(tmp_path):
    assert judge(tmp_path, mean_r=0.71).exit_code == 0


def test_other_accuracy_count_or_null_does_not_reproduce(tmp_path):
    for i, change in enumerate(({"mean_r": 0.8}, {"images": 499}, {"label_consistency": 0.5})):
        result = judge(tmp_path / str(i), **change)
        assert result.exit_code == 1
        assert next(iter(change)) in result.output
