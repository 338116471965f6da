"""What is kept of the rendered images: which noise ratio, and which images.

Start with `adaptive` (Algorithm 1 on positions), then `search` (renders the levels of slots and
chooses one of each: trajectories) and `filters` (which images are kept, and new draws for others).
"""
