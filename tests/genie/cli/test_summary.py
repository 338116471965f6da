from genie.cli.summary import summary_lines

RESULT = {
    "baseline": {"mean": 0.6, "low": 0.58, "high": 0.62, "n": 5},
    "augmented": {"mean": 0.65, "low": 0.64, "high": 0.66, "n": 5},
    "gain": {"mean": 0.05, "low": 0.04, "high": 0.06, "n": 5},
    "images": 500,
    "mean_r": 0.7,
    "label_consistency": None,
}
ONE_TASK = {"mean": -0.125, "low": None, "high": None, "n": 1}


def test_gain_is_shown_with_its_sign_its_interval_and_n():
    lines = dict(summary_lines(RESULT, {}))
    assert lines["accuracy without"] == "60.0 ± 2.0 %  (95% interval, n = 5 tasks)"
    assert lines["gain, paired by task"] == "+5.0 ± 1.0 %  (95% interval, n = 5 tasks)"
    assert lines["images generated"] == "500"
    assert lines["mean r of the kept images"] == "0.700"


def test_a_method_without_new_images_is_not_called_generated():
    lines = dict(summary_lines(RESULT | {"images": 0}, {}))
    assert (
        lines["accuracy with the method"]
        == dict(summary_lines(RESULT, {}))["accuracy with generated"]
    )


def test_missing_measurements_are_reported_and_one_task_has_no_interval():
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    lines = dict(summary_lines(RESULT | {"gain": ONE_TASK, "baseline": nothing}, {}))
    assert lines["gain, paired by task"] == "-12.5 %  (one task, no interval)"
    assert lines["accuracy without"] == "not measured"
    assert lines["label consistency"] == "not judged"


def test_intervals_say_what_they_are_over_and_few_query_images_are_told():
    sets = {"interval_over": "support sets", "queries": 28, "queries_per_class": 2}
    lines = dict(summary_lines(RESULT | sets | {"predict_accuracy": 0.64}, {}))
    assert lines["gain, paired by task"].endswith("(95% interval, n = 5 support sets)")
    assert lines["query images"] == (
        "28, the same for all support sets; only 2 of a class, which is too few"
    )
    assert lines["accuracy of genie predict"] == "64.0 %  (the classifier of the first task)"
    one = {"interval_over": "query images", "queries": 900, "queries_per_class": 90}
    lines = dict(summary_lines(RESULT | one | {"predict_accuracy": 0.65}, {}))
    assert lines["gain, paired by query image"] == (
        "+5.0 %  (95% interval +4.0 to +6.0, n = 5 query images)"
    )
    assert lines["query images"] == "900"
    equal = {"interval_over": "splits", "gain": ONE_TASK | {"n": 4}}
    gain = dict(summary_lines(RESULT | equal, {}))["gain, paired by task"]
    assert gain == "-12.5 %  (equal in all 4 splits, no interval)"
    assert "accuracy of genie predict" not in lines


def test_groups_are_shown_where_there_are_several():
    few = {"gain_few": ONE_TASK}
    assert "gain, few" not in dict(summary_lines(RESULT | few, {}))
    both = dict(summary_lines(RESULT | few | {"gain_many": RESULT["gain"]}, {}))
    assert both["gain, few"].startswith("-12.5 %")
    assert both["gain, many"].startswith("+5.0 ±")


def test_seconds_stand_in_the_order_of_the_stages():
    assert dict(summary_lines(RESULT, {}))["seconds per stage"] == "not measured"
    lines = dict(summary_lines(RESULT, {"generate": 12.4, "prepare": 3}))
    assert lines["seconds per stage"] == "prepare 3, generate 12"
