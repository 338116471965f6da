"""Two clones and one S3 server: one makes the set, the other trains with it."""

import shutil

from tests.scratch import call, contents, ran


def test_colleague_trains_with_the_set_from_s3_and_renders_nothing(cloned, bucket, tmp_path):
    call(cloned, "dvc", "remote", "add", "--default", "team", "s3://bucket/genie")
    call(cloned, "git", "commit", "--quiet", "--all", "--message", "a remote")
    call(cloned, "git", "push", "--quiet")
    call(cloned, "dvc", "push", "--run-cache")
    assert bucket()

    colleague = tmp_path / "colleague"
    call(tmp_path, "git", "clone", "--quiet", str(tmp_path / "origin.git"), str(colleague))
    assert ran(call(colleague, "dvc", "repro", "--pull")) == []
    for folder in ("data/augmented", "models", "plots"):
        assert contents(colleague / folder) == contents(cloned / folder)

    shutil.rmtree(colleague / "models")
    retrained = call(
        colleague, "dvc", "repro", "--force", "--single-item", "--no-run-cache",
        *("train_baseline", "retrain", "evaluate"),
    )  # fmt: skip
    assert ran(retrained) == ["train_baseline", "retrain", "evaluate"]
    for folder in ("metrics", "models"):
        assert contents(colleague / folder) == contents(cloned / folder)
    assert call(colleague, "git", "status", "--porcelain") == ""

    before = contents(colleague / "models/augmented")
    for clone in (cloned, colleague):
        output = call(clone, "dvc", "exp", "run", "-S", "augment.real_passes=5")
        assert "generate" not in ran(output)
        assert "retrain" in ran(output)
    for folder in ("metrics", "models"):
        assert contents(colleague / folder) == contents(cloned / folder)
    assert contents(colleague / "models/augmented") != before
    assert not (colleague / ".genie/store").exists()
