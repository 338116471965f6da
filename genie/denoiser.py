"""The denoiser as a function, compiled where that pays: OpenVINO on a CPU, torch on a GPU.

On two x86 cores OpenVINO takes 1.5 times as many steps per second as PyTorch does, for two
seconds of preparation and half a second per shape of the batch; images are equal within one level
of 255.
"""

import math
import platform
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from genie.errors import GenieError

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def uses_openvino(device: str, compile: bool | None) -> bool:
    """Whether OpenVINO runs the denoiser: on a CPU, where `compile` says so or leaves it to us."""
    if compile is None:
        compile = platform.machine() in ("x86_64", "AMD64")
    return compile and device == "cpu"


def load_denoiser(
    unet: Any, *, device: str, compile: bool | None, dtype: torch.dtype = torch.float32
) -> Denoiser:
    """(latents (B, 4, h, w), timesteps (B,), embeddings (B, tokens, d)) -> predicted (B, 4, h, w).

    `compile` as None means: on an x86 CPU. On a GPU the first batch waits a minute for it.
    OpenVINO takes float32 weights and computes in `dtype` if the processor has it; PyTorch computes
    in the weights' own.
    """
    if uses_openvino(device, compile):
        return _by_openvino(unet, "bf16" if dtype == torch.bfloat16 else "f32")
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


def _by_openvino(unet: Any, precision: str) -> Denoiser:
    """Converted at the first batch, compiled at the first of each shape.

    So nothing to render costs nothing.
    """
    model: Any = None

    @lru_cache(maxsize=3)
    def compiled(latents: tuple[int, ...], embeddings: tuple[int, ...]) -> list[Any]:
        nonlocal model
        streams = math.gcd(latents[0], torch.get_num_threads())
        count = latents[0] // streams
        inputs = (
            torch.zeros(count, *latents[1:]),
            torch.zeros(count, dtype=torch.int64),
            torch.zeros(count, *embeddings[1:]),
        )
        model = model or _convert(unet, inputs)
        shapes = [list(value.shape) for value in inputs]
        return _compile(model, shapes, streams=streams, precision=precision)

    def denoise(
        latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        requests = compiled(tuple(latents.shape), tuple(embeddings.shape))
        inputs = [x.contiguous().numpy() for x in (latents, timesteps, embeddings)]
        parts = list(zip(*(np.split(x, len(requests)) for x in inputs), strict=True))
        for request, part in zip(requests, parts, strict=True):
            request.start_async(part, share_inputs=True)
        for request in requests:
            request.wait()
        return torch.cat([torch.from_numpy(r.get_output_tensor(0).data) for r in requests])

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


def _compile(model: Any, shapes: Sequence[list[int]], *, streams: int, precision: str) -> list[Any]:
    """Inference requests for inputs of just these shapes: half faster than for any.

    They run side by side: cores that share out a batch wait for each other less, by a sixth of the
    time, than cores that share out every operation. On x86 the results are bitwise the same for
    every size of the batch.
    """
    import openvino

    model.reshape(dict(enumerate(shapes)))
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return [compiled.create_infer_request() for _ in range(streams)]
