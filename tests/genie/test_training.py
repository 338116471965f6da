from genie.training import generated_per_class, shortfall

LABELS = ["a"] * 3 + ["b"] * 25


def test_every_class_gets_the_same_number():
    wanted = generated_per_class(LABELS, per_class=4, classes="all", every_source=False)
    assert wanted == {"a": 4, "b": 4}


def test_few_leaves_out_classes_with_twenty_images_or_more():
    wanted = generated_per_class(LABELS, per_class=4, classes="few", every_source=False)
    assert wanted == {"a": 4}


def test_every_source_gives_one_image_per_image_of_the_other_classes():
    wanted = generated_per_class(LABELS, per_class=4, classes="all", every_source=True)
    assert wanted == {"a": 25, "b": 3}


def test_shortfall_is_what_generation_left_out():
    assert shortfall({"a": 4, "b": 2}, ["a", "b", "b"]) == {"a": 3}
