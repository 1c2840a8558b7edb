"""Models that the tests of the front share."""

from collections.abc import Iterator

import pytest

from serve.models.pool import ModelPool
from serve.models.sources import ModelSource
from tests.serve.models import folders, opened


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPool]:
    """Tiny models of six families, loaded in this process."""
    found = folders(tmp_path_factory.mktemp("served"))
    pool = opened([ModelSource(name, str(folder)) for name, folder in found.items()])
    yield pool
    pool.close()
