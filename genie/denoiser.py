"""The denoiser as a function, compiled where that pays: OpenVINO on a CPU, torch on a GPU.

On two x86 cores OpenVINO takes 1.5 times as many steps per second as PyTorch does, for two
seconds of preparation and half a second per shape of the batch; images are equal within one level
of 255.
"""

import platform
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from genie.errors import GenieError

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def load_denoiser(unet: Any, *, device: str, compile: bool | None) -> Denoiser:
    """(latents (B, 4, h, w), timesteps (B,), embeddings (B, tokens, d)) -> predicted (B, 4, h, w).

    `compile` as None means: on an x86 CPU. On a GPU the first batch waits a minute for it.
    """
    on_cpu = device == "cpu"
    if compile is None:
        compile = on_cpu and platform.machine() in ("x86_64", "AMD64")
    if compile and on_cpu:
        return _by_openvino(unet)
    unet.to(memory_format=torch.channels_last)
    if compile:
        unet.compile(dynamic=False, options={"freezing": True})

    def denoise(
        latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last)
        (predicted,) = unet(latents, timesteps, encoder_hidden_states=embeddings, return_dict=False)
        return predicted

    return denoise


def _by_openvino(unet: Any) -> Denoiser:
    """Converted at the first batch, compiled at the first of each shape.

    So nothing to render costs nothing.
    """
    model: Any = None

    @lru_cache(maxsize=2)
    def compiled(latents: tuple[int, ...], embeddings: tuple[int, ...]) -> Any:
        nonlocal model
        inputs = (
            torch.zeros(latents),
            torch.zeros(latents[0], dtype=torch.int64),
            torch.zeros(embeddings),
        )
        model = model or _convert(unet, inputs)
        return _compile(model, [list(value.shape) for value in inputs])

    def denoise(
        latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        request = compiled(tuple(latents.shape), tuple(embeddings.shape))
        inputs = [x.contiguous().numpy() for x in (latents, timesteps, embeddings)]
        return torch.from_numpy(request.infer(inputs, share_inputs=True)[0])

    return denoise


def _convert(unet: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
    """OpenVINO's model of the denoiser, for any shape of such inputs.

    By OpenVINO's front end and not its `convert_model`, which reports its use over the network.
    """
    import openvino
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Predicted(torch.nn.Module):
        """The call that is traced; the graph keeps no names of arguments."""

        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, latents: Any, timesteps: Any, embeddings: Any) -> Any:
            return self.unet(latents, timesteps, embeddings, return_dict=False)[0]

    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing fixes shapes, as intended
            traced = torch.jit.trace(Predicted().eval(), inputs, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced)  # must outlive the conversion
            return frontend.convert(frontend.load(decoder))
    except RuntimeError as error:
        raise GenieError(
            f"OpenVINO must be able to convert the denoiser, but: {' '.join(str(error).split())}; "
            "set generator.compile to false"
        ) from error


def _compile(model: Any, shapes: Sequence[list[int]]) -> Any:
    """An inference request in float32 for inputs of just these shapes: half faster than for any.

    On x86 its results are bitwise the same for every size of the batch.
    """
    import openvino

    model.reshape(dict(enumerate(shapes)))
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return openvino.Core().compile_model(model, "CPU", options).create_infer_request()
