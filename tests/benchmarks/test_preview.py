import pandas as pd
from click.testing import CliRunner

from benchmarks.preview import PAPERS, Case, main, slots_of
from genie.core.tables import write_images
from genie.data.readers import read_pools
from genie.plan.levels import Levels

RECORDED = pd.read_csv("benchmarks/preview.csv")


def test_every_image_is_the_source_of_every_other_class_at_all_levels(photos):
    images, _ = read_pools(photos)
    slots = slots_of(images)
    assert len(slots) == len(images) * 2
    for slot in slots:
        assert tuple(request.r for request in slot.levels) == Levels().ratios
        assert slot.levels[0].source_label != slot.levels[0].target_label


def test_previews_and_bfloat16_are_compared_with_the_exact_search(
    photos, tiny_sd_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    write_images(read_pools(photos)[0].groupby("label").head(1), tmp_path)
    options = {"--data": tmp_path, "--generator": tiny_sd_folder, "--out": tmp_path / "out.csv"}
    arguments = [str(part) for pair in options.items() for part in pair]
    result = CliRunner().invoke(main, [*arguments, "--steps", "20"], catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == list(RECORDED.columns)
    cases = table[list(Case._fields)].astype(object).where(table[list(Case._fields)].notna(), None)
    assert [Case(*row) for row in cases.to_numpy()][1] == ("float32", 20, "preview", PAPERS)
    assert set(table["pairs"]) == {6}
    assert (table["same"] <= table["within_one_level"]).all()
    # all levels take 10 + 12 + 14 + 16 + 18 steps in full, and r = 0.8 takes 16
    assert set(table["exact_times_fixed"]) == {70 / 16}
    assert table["guided_steps"].tolist()[-1] == 70
    assert (table["guided_steps"][:-1] >= 35 + 10).all()
