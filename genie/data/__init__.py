"""Images and tasks: from labelled images to support and query sets.

Start with `readers` (image folders, Parquet, saved Hugging Face data sets), then read `images`
(ids, decoding, square crop), `near_duplicates` (no task is tested on what it was trained on),
`tasks` (regimes), `wording` (class names in folders and prompts) and `licence` (licence files).
`augmented_set` reads and writes the data set that the stage `generate` produces.
"""
