"""The frozen base model and the adapter on it."""

import copy
import hashlib
import json
import re
import resource
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lib import hardware, paths
from lib.config import Lora, Model
from lib.model import attention, packaged

#: The projections that carry an adapter, in every layer (the authors' adapter_config.json).
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


#: The number of a layer in the name of a weight.
_NUMBER = re.compile(r"\d+")


class ModelError(ValueError):
    """A base model or an adapter that cannot be loaded; the message says why, and what to do."""


def dtype() -> torch.dtype:
    """The precision of a loaded base model: 32 bits on a CPU; 16 on a GPU, as bfloat16 where the GPU supports it."""
    if hardware.device().type == "cpu":
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
    folder = Path(paths.located(name))
    if folder.exists():
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
    return name == "demo" or name in packaged.PACKAGES or Path(paths.located(name)).exists()


def gguf_file(settings: Model) -> Path | None:
    """The GGUF file that the base model is unpacked from; a package's may have to be fetched first. None for others."""
    if settings.base_model in packaged.PACKAGES:
        return packaged.PACKAGES[settings.base_model].path
    path = Path(paths.located(settings.base_model))
    return path if path.is_file() and path.suffix.lower() == ".gguf" else None


def is_packed(settings: Model) -> bool:
    """Whether the base model is in a GGUF file, here or still to be fetched, that is not unpacked yet."""
    file = gguf_file(settings)
    if file is None:
        return False
    # Slow to import, and not needed for other models.
    from lib.model import gguf

    package = packaged.PACKAGES.get(settings.base_model)
    return not gguf.folder(file, package.sha256 if package else packaged.sha256(file)).is_dir()


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


def load_tokenizer(settings: Model) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with a pad token of its own.

    Raises:
        ModelError: if it cannot be loaded, if it writes ids that the base model does not have, or if no token can serve
            as padding without being the end of a turn.
    """
    tokenizer = _load(AutoTokenizer, settings)
    _require_vocabulary(tokenizer, settings)
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


def _require_vocabulary(tokenizer: PreTrainedTokenizerBase, settings: Model) -> None:
    """Refuse a tokenizer that writes ids which the model has no embedding for."""
    size = _load(AutoConfig, settings).get_text_config().vocab_size
    # Special tokens that no prompt has, such as those for images, may lie beyond.
    unused = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused -= {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    largest = max(id for id in tokenizer.get_vocab().values() if id not in unused)
    if largest >= size:
        raise _unloadable(
            settings, f"its tokenizer has the token id {largest:,}, and its config.json a vocab_size of {size:,}"
        )


def load_generation_config(settings: Model) -> GenerationConfig:
    """The base model's sampling defaults, as `load_base` would find them, without loading its weights."""
    if (base_model_folder(settings) / "generation_config.json").is_file():
        return _load(GenerationConfig, settings)
    return GenerationConfig.from_model_config(_load(AutoConfig, settings))


def load_base(settings: Model, precision: torch.dtype | None = None) -> PreTrainedModel:
    """The base model in inference mode, in this precision (`dtype` if None), or in 4 bits where its checkpoint is.

    Raises:
        ModelError: if it cannot be loaded, or if its weights are not exactly those that its configuration describes.
    """
    # transformers leaves a damaged one out, and decodes by its own defaults.
    load_generation_config(settings)
    precision = precision or dtype()
    model, found = _load(
        AutoModelForCausalLM,
        settings,
        dtype=precision,
        device_map={"": hardware.device()},
        attn_implementation=attention.register(),
        output_loading_info=True,
        # They are listed then, and refused below.
        ignore_mismatched_sizes=True,
    )
    _require_own_weights(settings, model, found)
    compute_in(model, precision)
    model.eval()
    return model


def _require_own_weights(settings: Model, model: PreTrainedModel, found: dict[str, Any]) -> None:
    """Refuse a model whose weights transformers had to make up or leave out: it only warns.

    Args:
        found: its loading info. Of weights that it left out only those count that are one more of the model's own, as
            in a layer beyond the last.
    """
    named = model.config.architectures or [type(model).__name__]
    if type(model).__name__ not in named:
        raise _unloadable(
            settings,
            f"its config.json names the architecture {', '.join(named)}, which is no causal language model or not that "
            f"of its model_type {model.config.model_type!r} ({type(model).__name__})",
        )
    kinds = {_NUMBER.sub("", name) for name in model.state_dict()}
    reshaped = [name for name, *_ in found["mismatched_keys"]]
    surplus = [name for name in found["unexpected_keys"] if _NUMBER.sub("", name) in kinds]
    faults = {
        "some weights that its config.json describes are not in its files": found["missing_keys"],
        "some of its weights have another shape than its config.json describes": reshaped,
        "some of its weights are of layers that its config.json does not have": surplus,
    }
    for fault, names in faults.items():
        if names:
            raise _unloadable(settings, f"{fault} ({len(names)}, such as {min(names)})")


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
    # What is damaged or contradicts itself ends in an error of any kind.
    except Exception as error:
        _require_memory(error)
        raise _unloadable(settings, _damaged_file(folder) or _said(error)) from error


def _require_memory(error: Exception) -> None:
    """Raise the error again if it says that there is no room for a model: then no file is at fault."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        raise error


def _unloadable(settings: Model, why: str) -> ModelError:
    return ModelError(
        f"the base model {settings.base_model!r} cannot be loaded from {base_model_folder(settings)}: {why}. Get it "
        "again, or name another folder with BASE_MODEL"
    )


def _damaged_file(folder: Path) -> str | None:
    """Which file of a model's folder cannot be read, and why."""
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".json":
                found = json.loads(path.read_bytes())
                if path.name.endswith(("config.json", "tokenizer.json")) and not isinstance(found, dict):
                    return f"{path.name} is no JSON object"
            if path.suffix == ".safetensors":
                # It compares the file's size with its header.
                with safe_open(path, "pt"):
                    pass
        # That of safetensors is of no common kind.
        except Exception as error:
            return f"{path.name} is damaged or cut short ({_said(error)})"
    return None


def _said(error: Exception) -> str:
    """What an error says in its first sentence, with its kind where that is not plain from it."""
    lines = str(error).strip().splitlines() or [""]
    # A first line that ends in a colon announces the others.
    text = " ".join(line.strip() for line in lines) if lines[0].rstrip().endswith(":") else lines[0]
    kind = "" if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: "
    return f"{kind}{text}".rstrip(": .")


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
        ModelError: if there is no adapter in that folder, or if it is damaged or another base model's.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"no adapter in {adapter}: run `{paths.command_for(adapter)}` first, or name its folder")
    base = load_base(settings)
    try:
        model: Any = _put_on(base, adapter)
    # As a base model: what is damaged or does not fit ends in an error of any kind.
    except Exception as error:
        _require_memory(error)
        why = _damaged_file(adapter) or _said(error)
        raise ModelError(
            f"the adapter in {adapter} cannot be loaded on {settings.base_model}: {why}. Remove it and run "
            f"`{paths.command_for(adapter)}`, or name another folder"
        ) from error
    if model.dtype == torch.float32 and not getattr(model.config, "quantization_config", None):
        model = model.merge_and_unload()
    model.eval()
    return model


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same weights, not of copies: adapters can be put on it, and the first one stays as it is."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def put_on(model: PreTrainedModel | PeftModel, adapter: Path, name: str) -> PeftModel:
    """Put one more saved adapter on a model, beside those that it has; calls name it in `adapter_names`.

    Raises:
        ModelError: if it is damaged or another base model's. A model that had adapters stays as it was.
    """
    try:
        model = _put_on(model, adapter, name)
    # As in `load_adapter`.
    except Exception as error:
        _require_memory(error)
        if isinstance(model, PeftModel) and name in model.peft_config:
            # What there is of it would stay as it was drawn.
            model.delete_adapter(name)
        why = _damaged_file(adapter) or _said(error)
        raise ModelError(f"the adapter in {adapter} cannot be loaded: {why}") from error
    model.eval()
    return model


def _put_on(model: PreTrainedModel | PeftModel, adapter: Path, name: str = "default") -> PeftModel:
    with warnings.catch_warnings():
        # PEFT would leave a weight that the file lacks as it was drawn.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, adapter, adapter_name=name)
        model.load_adapter(adapter, adapter_name=name)
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
