import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.sources import by_class, sources_of, unbalanced
from genie.classify.examples import Examples


def test_sources_are_counted_and_compared_with_those_of_equal_classes():
    equal = {"a": ["b"], "b": ["c"], "c": ["b"]}
    before = [{"a": ["c"], "b": ["a"], "c": ["a"]}] * 2
    after = [{"a": ["b"], "b": ["c"], "c": ["b"]}, {"a": ["b"], "b": ["a"], "c": ["b"]}]
    table = by_class(before, after, equal, pd.Series({"a": 9.0, "b": 1.0, "c": 4.0}))
    assert list(table["label"]) == ["a", "c", "b"]
    assert table.set_index("label").loc["a", ["named_before", "named"]].tolist() == [4, 1]
    assert table.set_index("label")["agreement"].to_dict() == {"a": 1.0, "c": 1.0, "b": 0.5}
    assert (table["agreement_before"] == 0).all()


def test_unbalanced_predictions_are_those_of_an_unweighted_classifier_out_of_fold():
    random = np.random.default_rng(0)
    labels = ["large"] * 40 + ["small"] * 10
    z = random.normal(size=(50, 4)) + np.eye(2, 4)[[0] * 40 + [1] * 10]
    found = unbalanced(Examples([], z, labels))
    seen = LogisticRegression(max_iter=1000).fit(z, labels).predict_proba(z)
    assert found.loc["small", "large"] == pytest.approx(seen[40:, 0].mean(), abs=0.15)
    assert sources_of(found, 1) == {"large": ["small"], "small": ["large"]}
