import pytest

from genie.progress import bar, is_first_process


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_only_the_first_process_shows_its_progress(rank, first, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first_process() == first
    assert list(bar(range(3), "counting", total=3)) == [0, 1, 2]
    assert ("counting" in capsys.readouterr().err) == first


def test_bar_counts_the_weight_of_each_item(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    batches = [["a"], ["b", "c"]]
    assert list(bar(batches, "render", total=3, unit="image", weight=len)) == batches
    assert "3/3" in capsys.readouterr().err
