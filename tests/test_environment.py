"""The locks, and what the repository holds: what a stranger's machine is built from."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.txt", "requirements-gpu.txt")
ASKED_FOR = "requirements-ray.txt"  # only who sets RAY_ADDRESS needs it
TOP_LEVEL = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "README.id.md",
    "README.md",
    "environment.yml",
    "lib",
    "notebooks",
    "pyproject.toml",
    "reports",
    "tests",
    "webapp",
}


def lines(lock: str) -> list[str]:
    text = (ROOT / lock).read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, str]:
    return {canonical(name): version for name, version in (line.split("==") for line in lines(lock))}


def git(*arguments: str) -> list[str]:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("lock", [*LOCKS, ASKED_FOR])
def test_every_line_of_a_lock_is_one_exact_pin(lock):
    assert lines(lock)
    for line in lines(lock):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.!+-]*", line), line
    assert len(pins(lock)) == len(lines(lock))


def test_the_locks_do_not_speak_of_the_same_package():
    assert not set(pins(LOCKS[0])) & set(pins(LOCKS[1]))


def test_the_lock_of_ray_adds_to_the_environment_and_agrees_with_that_of_the_gpu():
    asked_for, gpu = pins(ASKED_FOR), pins(LOCKS[1])
    assert "ray" in asked_for
    assert not set(asked_for) & set(pins(LOCKS[0]))
    assert {name: gpu[name] for name in asked_for if name in gpu} == {
        name: asked_for[name] for name in asked_for if name in gpu
    }


def test_with_the_lock_of_ray_the_environment_has_all_that_ray_asks_for():
    if "ray" not in {canonical(found.name) for found in importlib.metadata.distributions()}:
        pytest.skip("Ray is not installed: what it asks for stands in its package")
    plain = [wanted for wanted in importlib.metadata.requires("ray") if "extra ==" not in wanted]
    names = {canonical(re.match(r"[\w.-]+", wanted)[0]) for wanted in plain}
    assert names <= set(pins(LOCKS[0])) | set(pins(ASKED_FOR))


def test_torch_is_pinned_where_the_makefile_looks_for_it():
    # It is installed first: resolved on its own it would bring gigabytes for a GPU that may not be there.
    assert "grep '^torch==' requirements.txt" in (ROOT / "Makefile").read_text()
    assert [line for line in lines("requirements.txt") if re.match("^torch==", line)]


def third_party(folder: str) -> set[str]:
    """The top-level modules that a folder's sources import and that are neither Python's nor this project's."""
    sources = list((ROOT / folder).rglob("*.py"))
    own = {"lib", "tests"} | {path.stem for path in sources} | {path.parent.name for path in sources}
    own |= {path.name for path in (ROOT / "webapp").iterdir()}
    found = set()
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - own - set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder", ["lib", "tests", "webapp"])
def test_every_import_is_pinned(folder):
    distributions = importlib.metadata.packages_distributions()
    pinned = pins("requirements.txt") | pins("requirements-gpu.txt") | pins(ASKED_FOR)
    unpinned = {
        module
        for module in third_party(folder)
        if not {canonical(name) for name in distributions.get(module, [module])} & set(pinned)
    }
    assert unpinned == set()


def test_what_the_commands_start_is_pinned():
    # None of them is imported anywhere.
    started = {"ipykernel", "jupyterlab", "mypy", "papermill", "pytest", "pytest-xdist", "ruff", "setuptools"}
    assert started <= set(pins("requirements.txt"))


def test_the_installed_versions_are_the_pinned_ones():
    installed = {canonical(found.name): found.version for found in importlib.metadata.distributions()}
    # A local label, as in 2.13.0+cpu, names another build of the same version.
    differing = {
        name: (version, installed[name])
        for name, version in pins("requirements.txt").items()
        if name in installed and installed[name].split("+")[0] != version
    }
    assert differing == {}


def test_xformers_is_not_installed_since_it_does_not_load_beside_this_torch():
    # requirements-gpu.txt says why.
    assert "xformers" not in pins("requirements-gpu.txt") | pins("requirements.txt")


def test_the_environment_fits_together():
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    # requirements-gpu.txt says why it is left out.
    missed = [line for line in checked.stdout.splitlines() if not re.match("unsloth .* requires xformers, which", line)]
    assert checked.returncode == 0 or missed == [], checked.stdout


@pytest.mark.skipif(not (ROOT / ".unsloth").is_dir(), reason="bitsandbytes is not installed: make unsloth")
def test_bitsandbytes_has_a_library_for_the_cuda_that_torch_brings():
    major, minor, *_ = pins(LOCKS[1])["nvidia-cuda-runtime"].split(".")
    assert (ROOT / f".unsloth/bitsandbytes/libbitsandbytes_cuda{major}{minor}.so").is_file()


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "klepon"
    assert environment["channels"][0] == "conda-forge"
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {re.split(r"[=<> ]", entry)[0] for entry in plain} >= {"python", "pip", "make", "redis-server"}
    python = next(entry for entry in plain if re.match("python[=<> ]", entry))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f">={python.partition('=')[2]}" == wanted, "the oldest Python that the project takes"
    from_pip = next(entry for entry in environment["dependencies"] if isinstance(entry, dict))["pip"]
    named = [entry.removeprefix("-r ").strip() for entry in from_pip if entry.startswith("-r ")]
    assert sorted(named) == sorted(LOCKS)
    assert "-e ." in from_pip
    written_out = [entry for entry in from_pip if not entry.startswith("-")]
    assert set(written_out) <= set(lines(LOCKS[0])) | set(lines(LOCKS[1])), "a pin of its own would drift"


def test_the_packages_that_are_installed_are_there():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    code = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "lib").rglob("*.py")}
    assert set(packages) == code


READMES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("", "lib", "notebooks", "reports", "reports/published", "tests", "webapp")
    for path in (ROOT / folder).glob("README*.md")
)
#: What pip, the hub, Python's numerical libraries and vLLM read by themselves.
OF_OTHERS = {
    "HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET", "HF_HUB_OFFLINE", "HF_TOKEN", "OMP_NUM_THREADS",
    "PIP_EXTRA_INDEX_URL", "PIP_NO_DEPS", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "WANDB_MODE",
}  # fmt: skip


def code_of(readme: str) -> list[str]:
    """The lines of a README's blocks of code, and what stands between backticks."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return [line for block in [*fenced, *inline] for line in block.splitlines()]


def makes() -> tuple[set[str], set[str]]:
    """The commands and the variables of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.search(r"^# --- Commands -+\n\.PHONY:(.*)$", makefile, re.MULTILINE)[1].split())
    variables = set(re.findall(r"^([A-Z_]+) *\?=", makefile, re.MULTILINE))
    return commands, variables | {"PY"}


def test_every_readme_is_looked_at():
    assert len(READMES) == 8
    assert {name for name in git("ls-files", "*README*.md") if "vendor" not in name} <= set(READMES)


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_names_only_commands_that_there_are(readme):
    commands, variables = makes()
    for line in code_of(readme):
        call = re.match(r"\s*[!$]? ?(?:\S+=\S* )*make\b((?: -C \S+)?)([^#]*)", line)
        if call:
            words = re.sub(r"=(\"[^\"]*\"|'[^']*'|\S*)", "=", call[2]).split()
            # A stage may be asked for by its executed notebook.
            asked = {re.sub(r"reports/\w+/(\d_[a-z]+)_\w+\.ipynb", r"\1", w) for w in words if not w.endswith("=")}
            stages = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
            assert asked <= commands | stages, line
            assert {word[:-1] for word in words if word.endswith("=")} <= variables, line


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_names_only_variables_that_are_read(readme):
    sources = [ROOT / "Makefile", *(p for folder in ("lib", "webapp", "tests") for p in (ROOT / folder).rglob("*.py"))]
    read = "\n".join(path.read_text(encoding="utf-8") for path in sources if path != Path(__file__))
    for line in code_of(readme):
        named = re.findall(r"(?<![\w<-])([A-Z][A-Z_]+)(?==)", line) + re.findall(r"^[A-Z][A-Z_]+$", line)
        for name in set(named) - OF_OTHERS - makes()[1]:
            assert re.search(rf"\b{name}\b", read), f"{name}: {line}"


def test_git_does_not_ignore_the_code():
    # Stock ignore files for Python do.
    found = [path.relative_to(ROOT) for path in (ROOT / "lib").rglob("*") if path.is_file()]
    code = [str(path) for path in found if "__pycache__" not in path.parts]
    code += ["lib/new.py", "lib/demo/base_model/x.safetensors", "reports/published/x.csv", "reports/example/x.png"]
    git("status", "--porcelain")
    asked = subprocess.run(["git", "check-ignore", *code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.stdout == ""


@pytest.mark.parametrize(
    "path", ["artifacts/demo/x", "reports/demo/report.html", ".venv", "x.partial.ipynb", "lib/__pycache__/x"]
)
def test_git_ignores_what_is_made(path):
    assert git("check-ignore", path) == [path]


def test_the_top_level_holds_what_it_should_and_no_more():
    tops = {path.split("/")[0] for path in git("ls-files")}
    unknown = {top for top in tops if not top.startswith(".") and not re.fullmatch(r"requirements[\w-]*\.txt", top)}
    assert unknown <= TOP_LEVEL


def test_no_tracked_file_names_a_path_of_somebody_s_machine():
    absolute = re.compile(rb"(?<![\w.:/-])(?:/work|/tmp|/root|/home|/Users|/mnt)/[\w.-]|\b[A-Z]:\\Users")
    for name in git("ls-files"):
        path = ROOT / name
        if name.startswith("tests/") or not path.is_file() or path.suffix in (".png", ".safetensors"):
            continue
        found = absolute.search(path.read_bytes())
        assert not found, f"{name}: {found[0].decode()}"


def test_no_tracked_file_is_large():
    sizes = {name: (ROOT / name).stat().st_size for name in git("ls-files") if (ROOT / name).is_file()}
    assert {name: size for name, size in sizes.items() if size > 16 * 2**20} == {}
