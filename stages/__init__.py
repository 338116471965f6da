"""One thin module per DVC stage, run as `python -m stages.NAME`."""

import os

# what these libraries say about packages that are not needed here is noise to a user
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
