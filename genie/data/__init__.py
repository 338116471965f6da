"""Images and tasks, from labelled images to support and query sets.

Start with `readers` (image folders, Parquet, saved Hugging Face data sets) and `datasets` (lists,
torchvision and Hugging Face data sets), then read `images` (ids, decoding, square crop),
`near_duplicates` (which must not leak from support to query images), `pools` (support and query
images), `tasks` (regimes), `prompts` (class names in folders and prompts) and `licence` (licence
files). `augmented_set` defines the data set that the stage `generate` writes; `shards`,
`thumbnails` and `card` write parts of this data set.
"""
