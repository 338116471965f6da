"""Selection of rendered images: the noise level of each, and which images are kept.

Start with `adaptive` (Algorithm 1 on positions), then `search` (which renders the levels of each
slot and chooses one) and `filters` (which reject images and draw replacements). `hard_negative` is
the result for one image.
"""
