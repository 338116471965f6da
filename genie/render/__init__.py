"""Rendering of requests into an image store. Nothing here depends on methods.

Start with `loop`, which renders the images that a store lacks. It uses `batches`, an engine
(`engine` in this process, `ray_engine` on workers) and a `store`. `keys` computes the names of
images in the store, `locks` lets several runs share the store, and `remote_store` is a second store
behind it. `model_info` describes a model, and `model` loads a model from a diffusers folder.
`stable_diffusion`, with a compiled `denoiser`, and `generic` render with the model, starting from
`noise`. `adapters` trains tokens. `speed` measures the rendering speed and forecasts the time.
"""
