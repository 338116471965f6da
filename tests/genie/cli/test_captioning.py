from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from genie.cli.captioning import write_captions
from genie.cli.main import main
from genie.core.errors import MissingFileError
from genie.core.tables import write_images
from genie.data.images import encode_png
from genie.data.prompts import read_captions


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-class captioner with random weights and a vocabulary of a few words."""
    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "photo", "of", "coat"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    common = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **common,
            "encoder_hidden_size": 16,
            "num_hidden_layers": 1,
            "vocab_size": len(words),
            "bos_token_id": 5,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "sep_token_id": 3,
            "max_position_embeddings": 40,
        },
        vision_config={**common, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
    )
    BlipForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)
    sizes = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(sizes, tokenizer).save_pretrained(folder)
    return folder


def pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


def table_of(images: list[Image.Image], ids: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"image_id": list(ids), "label": "coat", "png": [encode_png(i) for i in images]}
    )


def test_every_image_gets_a_caption_and_edits_stay(blip, tmp_path):
    path = tmp_path / "captions.csv"
    images = pictures(3)
    assert write_captions(table_of(images[:2], "ij"), model=blip, path=path) == 2
    first = read_captions(path)
    assert sorted(first) == ["i", "j"]
    assert all(isinstance(text, str) for text in first.values())
    path.write_text('image_id,label,caption\ni,coat,"a coat, worn"\nj,coat,x\n')
    assert write_captions(table_of(images, "ijk"), model=blip, path=path) == 1
    assert read_captions(path)["i"] == "a coat, worn"
    assert sorted(read_captions(path)) == ["i", "j", "k"]


def test_missing_captioning_model_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"MODEL must be .*nowhere has no config\.json"):
        write_captions(
            table_of(pictures(1), "i"), model=tmp_path / "nowhere", path=tmp_path / "c.csv"
        )
    assert not (tmp_path / "c.csv").exists()


def test_command_writes_the_table(blip, tmp_path):
    write_images(table_of(pictures(2), "ij"), tmp_path / "support")
    command = ["caption", str(blip), str(tmp_path / "support"), str(tmp_path / "c.csv")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "2 captions added" in result.output
    missing = CliRunner().invoke(main, [*command[:2], str(tmp_path / "no"), command[3]])
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: ")
