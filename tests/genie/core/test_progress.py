from genie.core.progress import Monitor, one, silent


def test_silent_progress_passes_items_on_unchanged():
    items = [1, 2, 3]
    assert silent(items, "read", total=3, unit="image", weight=one, whole=True) is items


def test_monitor_shows_and_records_nothing_by_default():
    monitor = Monitor()
    assert list(monitor.progress(iter("ab"), "read", total=2)) == ["a", "b"]
    assert monitor.record("loss", 0, 0.5) is None
    values = []
    Monitor(record=lambda *value: values.append(value)).record("loss", 1, 0.25)
    assert values == [("loss", 1, 0.25)]
