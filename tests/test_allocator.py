"""Memory that a process keeps: set once, where models are trained or answer."""

import os
import runpy
import subprocess
import sys

import pytest

from lib import allocator

TOLD = (
    "import os, sys; from lib.allocator import keep_pages; print(os.getpid()); sys.stdout.flush(); keep_pages(); "
    "print(os.getpid(), os.environ['GLIBC_TUNABLES'], *sys.argv[1:])"
)


@pytest.mark.parametrize(("own", "starts"), [(None, 2), ("glibc.malloc.check=0", 1)])
def test_a_process_begins_again_with_kept_pages_unless_it_has_settings_of_its_own(own, starts):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": own} if own else {}
    done = subprocess.run(
        [sys.executable, "-c", TOLD, "a b", "--c=d"], env=environment, capture_output=True, text=True, check=True
    )
    *begun, last = done.stdout.splitlines()
    process, tunables, *arguments = last.split(" ")
    assert begun == [process] * starts, "it is the same process to whoever started it"
    assert (tunables, arguments) == (own or allocator.KEPT_PAGES, ["a", "b", "--c=d"])


PROGRAMS = ["lib.running.advice", "lib.training.trainer", "lib.training.pretraining", "worker"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_trains_or_answers_in_a_process_of_its_own_keeps_pages_before_it_begins(monkeypatch, program):
    class BegunAgainError(Exception):
        pass

    def begin(program, arguments):
        raise BegunAgainError(program, os.environ["GLIBC_TUNABLES"])

    # As it was, however that ends.
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(os, "execv", begin)
    monkeypatch.setattr(sys, "argv", [program, "--no-such-option"])
    with pytest.raises(BegunAgainError) as begun:
        runpy.run_module(program, run_name="__main__")
    assert begun.value.args == (sys.executable, allocator.KEPT_PAGES)
