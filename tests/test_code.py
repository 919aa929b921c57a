"""What is kept from an earlier call holds for the code that made it alone."""

import pytest

from lib import code


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ground of one module and two rooms."""
    for name in ("ground", "model/one", "model/two", "report/three"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(
            f'"""Says {name}."""\n\n\ndef answer():\n    """A word."""\n    return 1\n'
        )
    monkeypatch.setattr(code, "HOME", tmp_path)
    code.fingerprint.cache_clear()
    yield tmp_path
    code.fingerprint.cache_clear()


def changed(home, name: str, old: str, new: str) -> bool:
    before = code.fingerprint("model")
    file = home / f"{name}.py"
    file.write_text(file.read_text().replace(old, new))
    code.fingerprint.cache_clear()
    return code.fingerprint("model") != before


@pytest.mark.parametrize("name", ["ground", "model/one", "model/two"])
def test_a_line_of_a_room_or_of_the_ground_is_other_code(home, name):
    assert changed(home, name, "return 1", "return 2")


@pytest.mark.parametrize(("old", "new"), [("A word.", "Another."), ("return 1", "return 1  # why"), ("Says", "Has")])
def test_a_comment_or_a_docstring_is_not(home, old, new):
    assert not changed(home, "model/one", old, new)


def test_nor_is_a_line_of_another_room(home):
    assert not changed(home, "report/three", "return 1", "return 2")


def test_a_module_that_moves_is_other_code(home):
    before = code.fingerprint("model")
    (home / "model/two.py").rename(home / "model/zwei.py")
    code.fingerprint.cache_clear()
    assert code.fingerprint("model") != before
