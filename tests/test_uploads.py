"""What is uploaded: under which name it is kept, and for how long."""

import json
import os
import shutil
import time

from lab.services.data.uploads import clear_out, keep_upload
from lab.services.workspace import Workspace


def test_an_upload_is_kept_once_under_a_name_that_is_recognised(tmp_path):
    workspace = Workspace(tmp_path / "runs")

    def kept(name: str, text: str) -> str:
        upload = tmp_path / name
        upload.write_text(text)
        path = keep_upload(upload, workspace)
        assert path.parent == workspace.uploads and path.read_text() == text
        assert not upload.exists()
        return path.name

    assert kept("my rows; rm -rf (1).CSV", "a") == "my-rows-rm-rf-1.csv"
    assert kept("my rows; rm -rf (1).CSV", "a") == "my-rows-rm-rf-1.csv"
    assert kept("my rows; rm -rf (1).CSV", "b") == "my-rows-rm-rf-1-2.csv"
    assert kept("数据.csv", "a") == "数据.csv" and kept("資料.csv", "b") == "資料.csv"
    assert kept("gsm8k v1.2.jsonl.GZ", "a") == "gsm8k-v1.2.jsonl.gz"
    assert kept("...", "a") == "upload" and kept("con.csv", "a") == "upload-con.csv"
    assert kept("数" * 80 + ".csv", "a") == "数" * 40 + ".csv"


def test_uploads_do_not_stay_for_ever(finished, tmp_path):
    space, run = finished
    workspace = Workspace(tmp_path / "runs")
    shutil.copytree(space.workspace.run(run).path, workspace.root / run)
    settings = workspace.run(run).settings
    record = json.loads(settings.read_text())
    record["settings"]["data"]["path"] = str(workspace.uploads / "named.csv")
    settings.write_text(json.dumps(record))
    workspace.uploads.mkdir()
    for name, age in (("named.csv", 9e6), ("old.csv", 9e6), ("new.csv", 0)):
        (workspace.uploads / name).write_text(name)
        os.utime(workspace.uploads / name, (time.time() - age,) * 2)
    clear_out(workspace)
    assert {path.name for path in workspace.uploads.iterdir()} == {"named.csv", "new.csv"}
    os.utime(workspace.uploads / "new.csv", (0, 0))
    settings.write_text("{")
    clear_out(workspace)  # a run that cannot be read may name any of them
    assert len(list(workspace.uploads.iterdir())) == 2
