"""Selection of the noise level of each rendered image, and of the images that are kept.

Start with `adaptive` (Algorithm 1 on positions), then read `search` (which renders the levels of
each slot and chooses a level) and `filters` (which reject images and draw replacements).
`hard_negative` defines the result for one image.
"""
