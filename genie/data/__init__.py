"""Images and tasks: from labelled images to support and query sets.

Start with `readers` (image folders, Parquet, saved Hugging Face data sets), then read `images`
(ids, decoding, square crop), `near_duplicates` (splitting off queries), `tasks` (regimes) and
`wording` (class names in folders and prompts). `augmented_set` reads and writes the data set that
the stage `generate` produces.
"""
