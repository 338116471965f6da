"""Images and tasks: from labelled images to support and query sets.

Start with `readers` (image folders, Parquet, saved Hugging Face data sets) and `datasets` (what
Python users have), then read `images` (ids, decoding, square crop), `near_duplicates` (no leakage
from support to query images), `pools` (support and query images), `tasks` (regimes), `prompts`
(class names in folders and prompts) and `licence` (licence files). `augmented_set` is the data set
that the stage `generate` produces, with its files: `shards`, `thumbnails` and `card`.
"""
