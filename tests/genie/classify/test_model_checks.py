import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from genie.classify import backbone
from genie.classify.model_checks import check_models
from genie.core.errors import FailedError

FOLDERS = {"embedder": Path("zoo/backbone"), "oracle": Path("zoo/oracle"), "clip": Path("zoo/clip")}


def test_model_is_loaded_twice_once_per_content(tmp_path, monkeypatch):
    loads = []
    load = backbone.load_backbone

    def counted(folder, device):
        loads.append(folder)
        return load(folder, device=device)

    monkeypatch.setattr(backbone, "load_backbone", counted)
    passed = tmp_path / "work/passed.json"
    folder = tmp_path / "model"
    shutil.copytree("zoo/backbone", folder)
    for expected in (2, 2):
        check_models({"embedder": folder}, passed)
        assert len(loads) == expected
    config = '{"size": {"height": 32, "width": 32}, "image_processor_type": "ViTImageProcessor"}'
    (folder / "preprocessor_config.json").write_text(config)
    check_models({"embedder": folder}, passed)
    assert len(loads) == 4


def test_models_that_passed_need_no_torch(tmp_path):
    passed = tmp_path / "passed.json"
    check_models(FOLDERS, passed)
    code = f"""
import sys
from pathlib import Path
from genie.classify.model_checks import check_models
folders = dict(embedder="zoo/backbone", oracle="zoo/oracle", clip="zoo/clip")
check_models({{name: Path(folder) for name, folder in folders.items()}}, Path({str(passed)!r}))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_that_differ_from_load_to_load_are_refused(tmp_path, monkeypatch):
    """As of a library that initialises weights without a report."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(backbone, "_loaded", lambda kind, folder, argument: ViTModel(config))
    with pytest.raises(FailedError, match="embedder must have trained weights"):
        check_models({"embedder": tmp_path / "model"}, tmp_path / "passed.json")
    assert not (tmp_path / "passed.json").exists()
