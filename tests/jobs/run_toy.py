"""`jobs/train.py` with the toy recipes in its registry, or with `encode` first jobs/encode.py; a script of its own, so that it can be killed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from genlib import registry
from jobs import encode, train
from jobs.command_line import exit_code

registry.RECIPES |= {"toy": "tests.jobs.toy:toy", "chain": "tests.jobs.toy:chain", "encoders": "tests.encoders:encoders"}

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(exit_code(lambda: encode.main(words[1:]) if words[:1] == ["encode"] else train.main(words)))
