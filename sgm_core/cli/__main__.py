"""`python -m sgm_core.cli ...` is `sgm ...`: for launchers that start modules, `torchrun -m sgm_core.cli train ...`."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - as Python writes it
        del sys.path[0]  # the working folder may be anybody's: nothing is imported from there

    from sgm_core.cli.app import main

    sys.exit(main())
