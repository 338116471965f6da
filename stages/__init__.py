"""The eight stages of dvc.yaml, one thin module each, run as `python -m stages.NAME`.

Their order is validate, prepare, train_baseline, select_sources, generate, retrain, evaluate,
analyse. Each stage reads files, calls the library and writes files. Stages contain no algorithms.
`commands` is no stage: it is the command `genie`, with those that take the pipeline's parameters.
An installed wheel holds them as `genie.stages`, so they import each other relatively.
"""

import os

# these libraries warn about optional packages that are not needed here
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
