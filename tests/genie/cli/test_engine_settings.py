"""The settings of the engine: environment variables, then a file that git ignores."""

import pytest

from genie.cli.engine_settings import VARIABLES, EngineSettings, read_engine
from genie.core.errors import GenieError
from genie.render.ray_engine import Cluster


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in (*VARIABLES.values(), "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


def written(root, text):
    (root / ".genie").mkdir()
    (root / ".genie/engine.yaml").write_text(text)
    return root


def test_without_settings_this_process_renders(tmp_path):
    assert read_engine(tmp_path) == EngineSettings()
    assert EngineSettings().cluster is None


def test_environment_variables_override_the_file(tmp_path, monkeypatch):
    written(tmp_path, "engine: ray\naddress: auto\nworkers: 3\n")
    monkeypatch.setenv("GENIE_RAY_WORKERS", "4")
    monkeypatch.setenv("GENIE_RAY_GPUS_PER_WORKER", "0.5")
    assert read_engine(tmp_path).cluster == Cluster("auto", 4, 0.5)


def test_an_experiment_in_a_folder_of_its_own_reads_the_workspace_s_file(tmp_path, monkeypatch):
    written(tmp_path, "remote_store: s3://bucket/images\n")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert read_engine(tmp_path / "elsewhere").remote_store == "s3://bucket/images"


def test_variable_of_an_earlier_version_names_its_replacement(tmp_path, monkeypatch):
    monkeypatch.setenv("GENIE_SHARED_STORE", "s3://bucket/images")
    with pytest.raises(GenieError, match=r"GENIE_SHARED_STORE is no longer .* GENIE_REMOTE_STORE"):
        read_engine(tmp_path)


def test_an_empty_file_changes_nothing(tmp_path):
    assert read_engine(written(tmp_path, "# nothing yet\n")) == EngineSettings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("engine: dask\n", "engine.*GENIE_ENGINE.*got 'dask'"),
        ("engin: ray\n", "engin.*Extra inputs"),
        ("workers: 0\n", "workers.*GENIE_RAY_WORKERS.*got 0"),
        ("[1]\n", "must be a mapping of settings"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, named):
    with pytest.raises(GenieError, match=named):
        read_engine(written(tmp_path, text))
