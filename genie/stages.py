"""What `python -m genie.stages.NAME` ends with: the stages of version 0.1 were in this package.

Projects of `genie new` have had stages of their own in stages/ since version 0.2.
"""

import sys

if sys.argv[0] == "-m":  # Python is looking for the module to run
    sys.exit(
        "Error: genie.stages was part of version 0.1: run `genie new` in an empty folder, copy "
        "stages/ and dvc.yaml from there, write the version that is installed in "
        "genie-version.txt, and run `dvc repro`, which names the keys of params.yaml to rename"
    )
