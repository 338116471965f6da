"""Image generation, and the choice of each image's noise ratio.

- Requests: `request`, `methods`, `noise` (r and its denoising steps), `inversion` (learned tokens),
  `captioning`, `known` (what a generator says about itself, and the classes that it knows).
- Rendering: `model` (a diffusers folder), `denoiser`, `render` with `batches`, `fast` and `plain`,
  `speed`. `keys` and `store` cache every image under a key of all that determines its pixels;
  `claims` let several runs share a store. `renderer` combines these.
- Selection: `search` (trajectories and the choice of r*) with `adaptive` (Algorithm 1), `filters`,
  `thumbnails`. `card` describes the set.
"""
