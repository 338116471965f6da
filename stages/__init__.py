"""The eight stages of dvc.yaml, run as `python -m stages.NAME`.

They run in this order: validate, prepare, train_baseline, select_sources, generate, retrain,
evaluate, analyse. Each stage reads files, calls the library and writes files. `runner` provides
their command line.
"""

import gc

gc.disable()  # until `runner.stage`: imports leave no garbage, and looking for it takes a second

import genie.cli.log  # noqa: E402, F401 - before other libraries, whose hints it hides
