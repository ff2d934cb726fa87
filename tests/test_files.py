"""A file that is replaced is the old one or the new one, never half of one."""

import pytest

from lab.core.files import write_json, write_whole


def test_what_cannot_be_written_leaves_the_file_and_no_rest(tmp_path):
    path = tmp_path / "one.json"
    write_json(path, {"word": "über"})
    assert path.read_text(encoding="utf-8") == '{\n "word": "über"\n}'
    with pytest.raises(UnicodeError):
        write_json(path, {"word": "\ud800"})
    with pytest.raises(OSError):
        write_whole(tmp_path / "missing" / "one.json", "1")
    assert [one.name for one in tmp_path.iterdir()] == ["one.json"]
    assert "über" in path.read_text(encoding="utf-8")
