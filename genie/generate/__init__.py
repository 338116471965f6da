"""Image generation, and the choice of each image's noise ratio.

- Requests: `request`, `methods`, `noise` (r and its denoising steps), `inversion` (learned tokens),
  `captioning`.
- Rendering: `model` (a diffusers folder), `denoiser`, `render` with `batches`, `fast` and `plain`,
  `speed`. `keys` and `store` cache every image under a key of all that determines its pixels.
  `renderer` combines these.
- Selection: `search` (trajectories and the choice of r*) with `adaptive` (Algorithm 1), `filters`,
  `thumbnails`.
"""
