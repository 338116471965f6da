"""The error message of `python -m genie.stages.NAME`, which ran a stage in version 0.1.

Since version 0.2, projects made by `genie new` contain their own stages in stages/.
"""

import sys

if sys.argv[0] == "-m":  # Python is looking for the module to run
    sys.exit(
        "Error: genie.stages was part of version 0.1: run `genie new` in an empty folder, copy "
        "stages/ and dvc.yaml from there, write the version that is installed in "
        "genie-version.txt, and run `dvc repro`, which names the keys of params.yaml to rename"
    )
