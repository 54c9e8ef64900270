"""`python -m sgm_core.cli ...` is `sgm ...`: for launchers that start modules, `torchrun -m sgm_core.cli train ...`."""

import sys

from sgm_core.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
