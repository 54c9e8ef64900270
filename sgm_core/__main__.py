"""`python -m sgm_core ...` is `sgm ...`: for launchers that start Python modules, `torchrun -m sgm_core train ...`."""

import sys

from sgm_core.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
