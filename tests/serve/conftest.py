"""Models that the tests of the front share."""

from collections.abc import Iterator

import pytest

from serve.backend import LocalBackend
from serve.runner import Runner
from tests.serve.models import folders


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    """Tiny models of six families, loaded in this process."""
    found = folders(tmp_path_factory.mktemp("served"))
    backend = LocalBackend([Runner.load(folder, name=name, device="cpu") for name, folder in found.items()])
    yield backend
    backend.close()
