"""`jobs/train.py` with the toy recipes in its registry; a script of its own, so that it can be killed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from genlib import registry
from jobs import train
from jobs.command_line import exit_code

registry.RECIPES |= {"toy": "tests.jobs.toy:toy", "chain": "tests.jobs.toy:chain"}

if __name__ == "__main__":
    sys.exit(exit_code(lambda: train.main(sys.argv[1:])))
