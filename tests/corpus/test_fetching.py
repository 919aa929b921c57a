"""Files of public repositories: fetched once, checked, resumed, and what each failure says."""

import fcntl
import hashlib
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.corpus import fetching
from lib.corpus.fetching import FetchError, Pin

TEXTS = {
    "data/rows.csv": "Prompt,Answer\r\nSiapa kamu?,Saya contoh.\r\n",
    "docs/id/satu.md": "# Satu\n",
    "docs/id/dalam/dua – akhir.md": "# Dua\n",
    "docs/id/gambar.png": "bukan teks",
    "large.bin": "x" * 100_000,
    # Asks a checkout to change the ends of lines.
    ".gitattributes": "* text eol=crlf\n",
}


def git(folder, *words):
    who = ("-c", "user.name=Penguji", "-c", "user.email=penguji@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def only_this_git(monkeypatch):
    """No setting of whoever runs the tests reaches git."""
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def there(tmp_path):
    """A repository with the texts, as a server of public repositories has it: its address and its commit."""
    folder = tmp_path / "server" / "someone" / "texts"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    # An older commit, which a shallow fetch leaves there.
    git(folder, "-c", "core.autocrlf=false", "commit", "--quiet", "--allow-empty", "-m", "first")
    (folder / ".git" / "info" / "attributes").write_text("* -text\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "texts")
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    return folder.as_uri(), git(folder, "rev-parse", "HEAD")


def pin(path, **changes):
    data = TEXTS[path].encode()
    return Pin(**{"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} | changes)


def folder_pin():
    names = ["docs/id/dalam/dua – akhir.md", "docs/id/satu.md"]
    listing = "".join(f"{hashlib.sha256(TEXTS[name].encode()).hexdigest()}  {name}\n" for name in names)
    size = sum(len(TEXTS[name].encode()) for name in names)
    return Pin("docs/id/", size, hashlib.sha256(listing.encode()).hexdigest(), count=2)


def kept(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def no_git(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("git was started")

    monkeypatch.setattr(fetching, "_git", refuse)


def test_the_named_files_come_byte_for_byte_and_no_others(there, tmp_path):
    fetching.fetch(*there, [pin("data/rows.csv"), folder_pin()], tmp_path / "here")
    assert kept(tmp_path / "here") == {"data/rows.csv", "docs/id/satu.md", "docs/id/dalam/dua – akhir.md"}
    assert (tmp_path / "here/data/rows.csv").read_bytes() == TEXTS["data/rows.csv"].encode()
    assert list(fetching.read(tmp_path / "here", folder_pin())) == ["docs/id/dalam/dua – akhir.md", "docs/id/satu.md"]


@pytest.mark.parametrize("filters", [True, False])
def test_files_that_are_not_named_stay_where_they_are_if_the_server_can_filter(there, tmp_path, monkeypatch, filters):
    git(tmp_path / "server/someone/texts", "config", "uploadpack.allowFilter", str(filters).lower())
    had = []
    ask = fetching._git

    def listening(where, *words, **given):
        if words[0] == "cat-file":
            print_all = ("cat-file", "--batch-all-objects", "--batch-check")
            had.append({line.split()[2] for line in ask(where, *print_all).decode().splitlines() if " blob " in line})
        return ask(where, *words, **given)

    monkeypatch.setattr(fetching, "_git", listening)
    fetching.fetch(*there, [pin("data/rows.csv")], tmp_path / "here")
    assert (str(len(TEXTS["large.bin"])) in had[0]) is not filters


def test_what_is_there_is_not_fetched_again(there, tmp_path, monkeypatch):
    pins = [pin("data/rows.csv"), folder_pin()]
    fetching.fetch(*there, pins, tmp_path / "here")
    no_git(monkeypatch)
    fetching.fetch(*there, pins, tmp_path / "here")


def test_after_an_interruption_only_what_is_missing_or_damaged_is_written(there, tmp_path):
    here, pins = tmp_path / "here", [pin("data/rows.csv"), folder_pin()]
    fetching.fetch(*there, pins, here)
    (here / "docs/id/satu.md").write_text("# Sa")
    (here / ".git").mkdir()
    (here / ".git/shallow.lock").write_text("")
    long_ago = time.time() - 1_000
    for name in ("data/rows.csv", "docs/id/dalam/dua – akhir.md"):
        os.utime(here / name, (long_ago, long_ago))
    fetching.fetch(*there, pins, here)
    assert (here / "docs/id/satu.md").read_text() == TEXTS["docs/id/satu.md"]
    assert [name for name in sorted(kept(here)) if (here / name).stat().st_mtime > long_ago + 1] == ["docs/id/satu.md"]


def test_another_file_of_the_same_size_is_refused(there, tmp_path):
    with pytest.raises(
        FetchError, match=r"data/rows.csv of .* is not what lib/corpus/tables/sources.toml says: 1 file"
    ):
        fetching.fetch(*there, [pin("data/rows.csv", sha256="0" * 64)], tmp_path / "here")


def test_a_folder_with_one_file_more_than_was_pinned_is_refused(there, tmp_path):
    here = tmp_path / "here"
    fetching.fetch(*there, [folder_pin()], here)
    (here / "docs/id/tiga.md").write_text("")
    with pytest.raises(FetchError, match=r"3 file\(s\) of .* not 2 of .* Remove .*here and run again"):
        fetching.fetch(*there, [folder_pin()], here)


def test_a_path_that_the_commit_does_not_have_is_named(there, tmp_path):
    with pytest.raises(FetchError, match=r"data/none.csv of .* does not exist: .* names a wrong path or commit"):
        fetching.fetch(*there, [Pin("data/none.csv", 1, "0" * 64)], tmp_path / "here")


def test_a_commit_that_is_gone_is_named(there, tmp_path):
    with pytest.raises(FetchError, match=f"texts has no commit {'ab' * 20} any more: its history was rewritten"):
        fetching.fetch(there[0], "ab" * 20, [pin("data/rows.csv")], tmp_path / "here")


def test_a_repository_that_is_gone_is_named(there, tmp_path):
    address = there[0].replace("texts", "moved")
    with pytest.raises(FetchError, match=r"there is no public repository .*moved any more. Update Klepon"):
        fetching.fetch(address, there[1], [pin("data/rows.csv")], tmp_path / "here")


def test_without_a_network_it_says_to_check_it(there, tmp_path):
    with pytest.raises(FetchError, match=r"127.0.0.1:9/a/b cannot be reached \(.*\). Check the network and run again"):
        fetching.fetch("http://127.0.0.1:9/a/b", there[1], [pin("data/rows.csv")], tmp_path / "here")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("fatal: unable to access 'x': Could not resolve host: github.com", "cannot be reached"),
        ("fatal: unable to access 'x': The requested URL returned error: 404", "no public repository"),
        ("fatal: could not read Username for 'https://github.com': terminal prompts disabled", "no public repository"),
        ("remote: Repository not found.\nfatal: repository 'x' not found", "no public repository"),
        ("fatal: write error: No space left on device", "the disk became full"),
        ("fatal: remote error: upload-pack: not our ref 12", "has no commit"),
        ("fatal: something new\n", r"git could not fetch .* \(fatal: something new\)"),
        ("", r"git could not fetch .* \(git said nothing\)"),
    ],
)
def test_what_git_says_becomes_a_sentence(tmp_path, monkeypatch, said, meant):
    def fail(*_, **__):
        raise fetching._GitError(said)

    monkeypatch.setattr(fetching, "_git", fail)
    with pytest.raises(FetchError, match=meant):
        fetching.fetch("https://github.com/a/b", "12" * 20, [pin("data/rows.csv")], tmp_path / "here")
    assert kept(tmp_path / "here") == set()


def test_without_git_it_says_to_install_it(there, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"git is not installed, and public sources are fetched with it. Install git"):
        fetching.fetch(*there, [pin("data/rows.csv")], tmp_path / "here")


def test_two_that_fetch_the_same_at_once_fetch_it_once(there, tmp_path, monkeypatch):
    begun, waits, goes_on, fetched = threading.Event(), threading.Event(), threading.Event(), []
    download, flock = fetching._download, fcntl.flock

    def slowly(*asked):
        fetched.append(asked)
        begun.set()
        assert goes_on.wait(30)
        download(*asked)

    def told(*asked):
        if begun.is_set():
            waits.set()
        flock(*asked)

    monkeypatch.setattr(fetching, "_download", slowly)
    monkeypatch.setattr(fetching.fcntl, "flock", told)

    def fetch():
        fetching.fetch(*there, [pin("data/rows.csv")], tmp_path / "here")

    with ThreadPoolExecutor() as both:
        one = both.submit(fetch)
        assert begun.wait(30)
        other = both.submit(fetch)
        assert waits.wait(30)
        goes_on.set()
        one.result(60)
        other.result(60)
    assert len(fetched) == 1
    assert kept(tmp_path / "here") == {"data/rows.csv"}


def test_a_full_disk_is_a_sentence(there, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(FetchError, match=r"the disk became full while .*texts was fetched. Free some and run again"):
        fetching.fetch(*there, [pin("data/rows.csv")], tmp_path / "here")
    assert kept(tmp_path / "here") == set()
