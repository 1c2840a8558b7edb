"""`jobs/train.py` with the toy recipes in its registry, or with `encode` or `tune` first that job; a script of its own, so that it can be killed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from genlib import registry
from jobs import encode, train, tune
from jobs.exit_codes import exit_code

registry.RECIPES |= {"toy": "tests.jobs.toy:toy", "chain": "tests.jobs.toy:chain", "encoders": "tests.encoders:encoders"}

if __name__ == "__main__":
    words = sys.argv[1:]
    main = {"encode": encode.main, "tune": tune.main}.get(words[0])
    sys.exit(exit_code(lambda: main(words[1:]) if main else train.main(words)))
