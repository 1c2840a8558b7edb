"""Ports: what the values are that go into a task's actions and come out of them.

An action is annotated with ports, so that whatever offers it (the server, its page, `jobs/generate.py`, the contract tests) reads from them
alone how a value is written in JSON, what limits it, what it costs, and how to make an example:

    @action
    def generate(self, *, prompt: Texts, seed: Seeds, steps: Steps = 25) -> Image: ...

To a type checker `Image` is a Tensor and `Seeds` a list of int; the port stands beside the type (`typing.Annotated`). An axis called "batch"
has an entry for each row of a call: row i of what comes out is a function of row i of what goes in. What has no such axis belongs to the
call as a whole. The ports there are stand in `genlib.ports.vocabulary`; a family whose values are of another kind adds one by `register`.
"""

from genlib.ports.port import BATCH, MAX_SEED, Port, Sizes  # noqa: F401
from genlib.ports.port_classes import PORTS, choice, register, resolved  # noqa: F401
from genlib.ports.vocabulary import *  # noqa: F403
