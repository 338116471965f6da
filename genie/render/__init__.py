"""Rendering: requests in, images in a store out. Nothing here depends on methods.

Start with `loop`, which renders the images that a store lacks. Its parts are `batches`; an engine
(`engine` in this process, `ray_engine` on workers); and a `store` with the `keys` of its images,
the `locks` that let runs share it, and the `remote_store` behind it. `model_info` describes a
model. `model` loads a diffusers folder; `stable_diffusion`, with a compiled `denoiser`, or
`generic` renders with it, starting from `noise`. `adapters` trains tokens. `speed` measures
rendering and forecasts its time.
"""
