"""Check params.yaml as a whole, so that a bad key stops the run before any work.

In: params.yaml. Out: .params.ok, a constant that every other stage depends on.
"""

from pathlib import Path

from stages.common import stage
from stages.params import Params


@stage
def main(params: Params, root: Path) -> str:
    """Check params.yaml as a whole."""
    (root / ".params.ok").write_text("params.yaml is valid\n")
    return "validate: every parameter is known and in range"


if __name__ == "__main__":
    main()
