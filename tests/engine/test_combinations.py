"""What the table of checkpointed activations, compilation and offload in RESULTS.md says is so."""

from __future__ import annotations

import pytest

from tests.engine.combinations import distances, parts, table


@pytest.mark.slow
def test_the_table_is_that_of_today() -> None:
    _, inside, after = parts()
    assert after, "the table has its marks"
    assert inside == table(distances()), "`python -m tests.engine.combinations` writes it anew"
