"""Lines of a worker on another process's terminal."""

from pathlib import Path

import pytest

from jobs.log_file import LogFile, followed, log_path


def test_only_whole_new_lines_are_followed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = log_path(tmp_path)
    path.write_text("of an earlier launch\n")
    with followed(path):
        stream = LogFile(path)
        print("step 1", "loss 2", file=stream)
        stream.write("half")
        stream.write(" a line\nthe rest")
    assert capsys.readouterr().out == "step 1 loss 2\nhalf a line\n"
    assert path.read_text() == "of an earlier launch\nstep 1 loss 2\nhalf a line\n"
