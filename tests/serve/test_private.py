"""What serving writes beside jobs is its owner's alone, too."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from serve import private
from serve.models.consistency_check import Sample, first, recorded

MADE = {"generate": Sample(0.5, [1, 2, 3])}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_records_of_consistency_checks(tmp_path: Path, umask: int) -> None:
    path = tmp_path / ".consistency_checks" / "0.json"
    before = os.umask(umask)
    try:
        assert first(path, MADE) == MADE
    finally:
        os.umask(before)
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)
    path.parent.chmod(0o755)
    path.chmod(0o644)
    assert recorded(path, {}) == MADE
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


def test_what_is_opened_is_tightened_and_what_a_link_leads_to_is_not(tmp_path: Path) -> None:
    (loose := tmp_path / "loose").write_bytes(b"a")
    loose.chmod(0o666)
    private.open_file(loose, "ab").close()
    assert mode(loose) == 0o600
    loose.chmod(0o644)
    (link := tmp_path / "link").symlink_to(loose)
    assert not private.tighten(link)
    assert mode(loose) == 0o644
    assert private.tighten(loose)
    assert not private.tighten(loose)
    assert not private.tighten(tmp_path / "none")
    with pytest.raises(FileExistsError):
        private.make_folder(loose)
