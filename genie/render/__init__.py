"""Rendering: requests in, images in a store out. Nothing here knows a method.

Start with `loop`, the one loop that renders what a store lacks. Its parts are `batches`; an engine
(`engine` in this process, `ray_engine` on workers); and a `store` with the `keys` of its images,
the `locks` that let runs share it, and the `remote_store` behind it. `model_info` describes a model
by a value. `model` loads a diffusers folder, which `stable_diffusion` or `generic` renders with,
the former with a compiled `denoiser`; `noise` is what images start from. `adapters` learns tokens.
`speed` measures and forecasts.
"""
