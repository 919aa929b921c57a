"""The final adapter merged into its base model: one folder that needs neither PEFT nor bitsandbytes.

Weights of 16 bits cannot hold the sum of base and adapter exactly. So what was written is read again and compared with
the adapter on test prompts; a model that differs by more than rounding does (`lib.release.agreement`) is removed.
"""

import argparse
import gc
import importlib.util
import json
import shutil
from dataclasses import asdict
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from lib import hardware, lock, paths
from lib.config import Model, Prompt, run_name
from lib.model import loading, saving
from lib.release import agreement, cards, finished
from lib.release.agreement import Agreement
from lib.release.finished import Finished
from lib.storage import whole, write_json


class MergeError(ValueError):
    """The adapter cannot be merged; the message says why, and what to do."""


def merge(run: Finished) -> Agreement:
    """Write the merged model of a run (safetensors in bfloat16, tokenizer and chat template) and compare it.

    Raises:
        MergeError: if this machine cannot read the base model's weights.
        agreement.AgreementError: if the written model is not the adapter's; its folder is removed.
    """
    config, files = run.config, run.config.paths
    _require_readable(config.model)
    # What is there may be another adapter's, and must not outlive a merge that fails.
    shutil.rmtree(files.merged, ignore_errors=True)
    files.merge_record.unlink(missing_ok=True)
    tokenizer = loading.load_tokenizer(config.model)
    examples = agreement.drawn(config, tokenizer)
    expected = agreement.of_adapter(config, examples)
    # Two copies of a large model in 32 bits may be more than there is room for.
    gc.collect()
    with whole(files.merged) as temporary:
        model = PeftModel.from_pretrained(_dense(config.model), files.final_adapter).merge_and_unload(safe_merge=True)
        # The file format of a 4-bit base model does not fit 16-bit weights.
        model.to(torch.bfloat16).save_pretrained(temporary, save_original_format=not loading.quantisation(config.model))
        save_tokenizer(tokenizer, config.prompt, temporary)
        saving.for_all_readers(temporary)
    del model
    gc.collect()
    try:
        written = agreement.ratings(loading.load_base(Model(str(files.merged))), examples)
        found = agreement.between(expected, written, len(examples))
        agreement.require(found, "the merged model")
    except BaseException:
        shutil.rmtree(files.merged, ignore_errors=True)
        raise
    write_json(
        files.merge_record,
        {
            "adapter": run.adapter,
            "merged": loading.fingerprint(files.merged),
            "dtype": "bfloat16",
            **asdict(found),
            "seed": agreement.SEED,
            "most_difference": agreement.MOST_DIFFERENCE,
            "least_equal": agreement.LEAST_EQUAL,
        },
    )
    cards.write(run)
    return found


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, settings: Prompt, folder: Any) -> None:
    """Write the tokenizer with a chat template that gives the training's prompts with no more settings.

    It writes the date of the training, and as many beginning-of-text tokens.
    """
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = pinned_template(tokenizer, settings)
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = template


def pinned_template(tokenizer: PreTrainedTokenizerBase, settings: Prompt) -> str:
    """The chat template with the settings of the prompts written into it."""
    more = (
        f"{{{{- {json.dumps(tokenizer.bos_token * (settings.bos_tokens - 1))} -}}}}" if settings.bos_tokens > 1 else ""
    )
    date = (
        f"{{%- set date_string = {json.dumps(settings.date)} -%}}" if "date_string" in tokenizer.chat_template else ""
    )
    return date + more + tokenizer.chat_template


def _require_readable(settings: Model) -> None:
    quantised = loading.quantisation(settings)
    if quantised and quantised.get("quant_method") != "bitsandbytes":
        raise MergeError(
            f"the base model {settings.base_model!r} is quantised by {quantised.get('quant_method')!r}, which "
            "cannot be undone here: merge an adapter trained on a base model in 16 bits, or in 4 by bitsandbytes"
        )
    if quantised and importlib.util.find_spec("bitsandbytes") is None:
        raise MergeError(
            f"the base model {settings.base_model!r} has its weights in 4 bits, and bitsandbytes, which reads them, is "
            "not installed here: merge on the machine that trained (requirements-gpu.txt has it)"
        )


def _dense(settings: Model) -> PreTrainedModel:
    """The base model in 32 bits. For a 4-bit one these are the weights that the adapter was trained on, not those from
    before quantisation, which it would not fit.
    """
    quantised = loading.quantisation(settings)
    model = AutoModelForCausalLM.from_pretrained(
        loading.base_model_folder(settings),
        dtype=torch.float32,
        # 4-bit weights are unpacked on the device that computes with them; a sum needs no GPU.
        device_map={"": hardware.device() if quantised else "cpu"},
    )
    return model.dequantize(dtype=torch.float32) if quantised else model


def main() -> None:
    """Merge the final adapter of a run. `make merge` calls this."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    try:
        files = paths.RunPaths(run_name(parser.parse_args().run))
        with lock.held(files):
            run = finished.read(files.run)
            found = merge(run)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"The merged model: {run.config.paths.merged.relative_to(paths.ROOT)}\n"
        f"On {found.tokens} tokens of {found.prompts} reference answers it differs from the adapter by "
        f"{found.log_prob_difference:.4f} nats (at most {agreement.MOST_DIFFERENCE}) and has the same likeliest "
        f"token at {found.equal_greedy:.1%} (at least {agreement.LEAST_EQUAL:.0%})."
    )


if __name__ == "__main__":
    main()
