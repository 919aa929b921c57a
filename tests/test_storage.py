import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lib.storage import FullDiskError, full_disk, whole, write_if_changed, write_json


def write_and_fail(path, text, folder=None):
    with whole(folder or path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / path.name).write_text(text)
        else:
            temporary.write_text(text)
        raise KeyError


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with whole(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_an_error_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_and_fail(path, "half")
    assert path.read_text() == "old"


def test_what_a_killed_write_left_behind_does_not_come_into_the_next(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(KeyError):
        write_and_fail(path / "torn", "x", folder=path)
    with whole(path) as temporary:
        temporary.mkdir()
        (temporary / "fine").write_text("x")
    assert [p.name for p in path.iterdir()] == ["fine"]


@pytest.fixture
def writer(tmp_path):
    """Another process that has begun to write `path`; it ends when it is told something."""
    path = tmp_path / "file"
    code = (
        "import sys; from pathlib import Path; from lib.storage import whole\n"
        f"with whole(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('theirs'); print('begun', flush=True); sys.stdin.readline()\n"
    )
    begun = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with begun as process:
        assert process.stdout.readline() == "begun\n"
        yield process, path


def test_two_processes_that_write_one_file_do_not_hinder_each_other(writer):
    process, path = writer
    with whole(path) as temporary:
        temporary.write_text("ours")
    assert path.read_text() == "ours"
    process.communicate("\n")
    assert process.returncode == 0
    assert path.read_text() == "theirs", "whoever ends last"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_a_killed_process_was_writing_goes_with_the_next_write(writer):
    process, path = writer
    process.kill()
    process.wait()
    assert [p.suffix for p in path.parent.iterdir()] == [".partial"]
    with whole(path) as temporary:
        temporary.write_text("ours")
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_full_disk_is_named_with_its_room(tmp_path, error):
    said = rf"^x could not be written: the disk of {tmp_path}.* is full.*GB are free"
    with pytest.raises(FullDiskError, match=said), whole(tmp_path / "new" / "x"):
        raise error


def test_of_several_disks_the_fullest_is_named(tmp_path, monkeypatch):
    room = {tmp_path / "a": 7e6, tmp_path / "b": 3e6}
    for folder in room:
        folder.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=room[folder], total=5e9))
    said = full_disk("database or disk is full", *room, tmp_path / "a" / "not" / "there")
    assert said.startswith(f"the disk of {tmp_path / 'b'} is full, or your share of it: 3 MB of 5.0 GB are free.")
    assert full_disk("a corpus without rows", *room) is None


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_all_files_of_a_folder_have_the_rights_that_the_umask_gives(tmp_path, umask, rights):
    before = os.umask(umask)
    try:
        with whole(tmp_path / "adapter") as temporary:
            (temporary / "deep").mkdir(parents=True)
            for path in (temporary / "weights", temporary / "deep" / "weights"):
                # As libraries do that write by way of a temporary file.
                os.close(os.open(path, os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    found = [path for path in (tmp_path / "adapter").rglob("weights")]
    assert {path.stat().st_mode & 0o777 for path in found} == {rights} and len(found) == 2


def test_a_folder_replaces_one_with_files_in_it(tmp_path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with whole(path) as temporary:
            temporary.mkdir()
            (temporary / name).write_text("x")
    assert [p.name for p in path.iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_an_error_leaves_the_old_folder_as_it_was(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("x")
    with pytest.raises(KeyError):
        write_and_fail(path / "new", "x", folder=path)
    assert [p.name for p in path.iterdir()] == ["old"]


def test_json_keeps_indonesian_and_other_letters_readable(tmp_path):
    write_json(tmp_path / "x.json", {"kata": "é ’ 日"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "é ’ 日" in text
    assert text.endswith("\n")
    assert json.loads(text) == {"kata": "é ’ 日"}


def test_an_unchanged_file_keeps_its_time_and_a_changed_one_does_not(tmp_path):
    path = tmp_path / "x"
    write_if_changed(path, "a")
    os.utime(path, (1_000, 1_000))
    write_if_changed(path, "a")
    assert path.stat().st_mtime == 1_000
    write_if_changed(path, "b")
    assert path.read_text() == "b"
    assert path.stat().st_mtime != 1_000
