"""Tiny random pipelines, built from configs and saved as a user's folder would be; test images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from genie.data.images import encode_png, image_id

SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that two workers end together."""
    items.sort(key=lambda item: item.path.name != "test_chain.py")


@pytest.fixture(scope="session")
def source_images() -> dict[str, bytes]:
    """Twelve 32x32 pictures as image_id -> PNG bytes: smooth random colours."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(12):
        coarse = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        images.append(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))
    return {image_id(image): encode_png(image) for image in images}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three classes, six train and four test pictures each: grey noise."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 4)):
        for level, name in enumerate(("ankle boot", "bag", "coat")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (32, 32, 3)) + 60 * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1.5-class model with random weights, 32x32 pixels, 8x8 latents."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=_vae(latent_channels=4),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(),
        unet=UNet2DConditionModel(**_unet_options(), cross_attention_dim=32),
        scheduler=PNDMScheduler(
            **_scheduler_options(), skip_prk_steps=True, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="session")
def tiny_velocity_folder(tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's classes with eight latent channels and velocity prediction."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    options = _unet_options() | {"in_channels": 8, "out_channels": 8}
    pipeline.unet = UNet2DConditionModel(**options, cross_attention_dim=32)
    pipeline.vae = _vae(latent_channels=8)
    pipeline.scheduler = PNDMScheduler(**_scheduler_options(), prediction_type="v_prediction")
    return _saved(pipeline, tmp_path_factory.mktemp("models") / "tiny-velocity")


@pytest.fixture(scope="session")
def tiny_lcm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent consistency model with random weights; its UNet takes the guidance scale."""
    torch.manual_seed(0)
    pipeline = LatentConsistencyModelPipeline(
        vae=_vae(latent_channels=4),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(),
        unet=UNet2DConditionModel(**_unet_options(), cross_attention_dim=32, time_cond_proj_dim=32),
        scheduler=LCMScheduler(**_scheduler_options()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, tmp_path_factory.mktemp("models") / "tiny-lcm")


@pytest.fixture(scope="session")
def tiny_turbo_folder(tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's architecture with the scheduler that Turbo models come with."""
    folder = tmp_path_factory.mktemp("models") / "tiny-turbo"
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    options = _scheduler_options() | {"timestep_spacing": "trailing"}
    pipeline.scheduler = EulerDiscreteScheduler(**options)
    return _saved(pipeline, folder)


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion XL-class model with random weights, 32x32 pixels."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        **_unet_options(),
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        use_linear_projection=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(latent_channels=4),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_scheduler_options()),
    )
    return _saved(pipeline, tmp_path_factory.mktemp("models") / "tiny-sdxl")


@pytest.fixture(scope="session")
def tiny_sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 3-class model (transformer, flow matching, no T5) with random weights."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
    )
    pipeline = StableDiffusion3Pipeline(
        vae=_vae(latent_channels=4, shift_factor=0.06, use_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()),
        text_encoder_3=None,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return _saved(pipeline, tmp_path_factory.mktemp("models") / "tiny-sd3")


def _saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _scheduler_options() -> dict[str, Any]:
    """Stable Diffusion 1.5's noise schedule, its "leading" spacing included."""
    return {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }


def _unet_options() -> dict[str, Any]:
    return {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }


def _vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=32,
        **options,
    )


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def _tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single bytes."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *SPECIAL]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
