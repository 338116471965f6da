"""Two clones and one S3 server: one makes the set, the other trains with it."""

import shutil

from tests.scratch import call, contents, ran, read_json


def test_colleague_trains_with_the_set_from_s3_and_renders_nothing(cloned, bucket, tmp_path):
    call(cloned, "dvc", "remote", "add", "--default", "team", "s3://bucket/genie")
    call(cloned, "git", "commit", "--quiet", "--all", "--message", "a remote")
    call(cloned, "git", "push", "--quiet")
    call(cloned, "dvc", "push", "--run-cache")
    assert bucket()

    colleague = tmp_path / "colleague"
    call(tmp_path, "git", "clone", "--quiet", str(tmp_path / "origin.git"), str(colleague))
    assert ran(call(colleague, "dvc", "repro", "--pull")) == []
    assert contents(colleague / "data/augmented") == contents(cloned / "data/augmented")
    assert contents(colleague / "plots") == contents(cloned / "plots")

    shutil.rmtree(colleague / "models")
    retrained = call(
        colleague, "dvc", "repro", "--force", "--single-item", "--no-run-cache",
        *("train_baseline", "retrain", "evaluate"),
    )  # fmt: skip
    assert ran(retrained) == ["train_baseline", "retrain", "evaluate"]
    assert contents(colleague / "metrics") == contents(cloned / "metrics")
    assert call(colleague, "git", "status", "--porcelain") == ""
    assert not (colleague / ".genie/store").exists()


def test_same_change_gives_both_the_same_metrics_without_rendering(cloned, bucket, tmp_path):
    call(cloned, "dvc", "remote", "add", "--default", "team", "s3://bucket/genie")
    call(cloned, "git", "commit", "--quiet", "--all", "--message", "a remote")
    call(cloned, "git", "push", "--quiet")
    call(cloned, "dvc", "push", "--run-cache")
    colleague = tmp_path / "colleague"
    call(tmp_path, "git", "clone", "--quiet", str(tmp_path / "origin.git"), str(colleague))
    call(colleague, "dvc", "repro", "--pull")
    before = read_json(cloned / "metrics/evaluate.json")
    change = ("dvc", "exp", "run", "-S", "augment.real_passes=5")
    for clone in (cloned, colleague):
        assert ran(call(clone, *change)) == ["validate", "retrain", "evaluate"]
    after = [read_json(clone / "metrics/evaluate.json") for clone in (cloned, colleague)]
    assert after[0] == after[1] != before
    assert not (colleague / ".genie/store").exists()
