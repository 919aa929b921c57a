"""unsloth's own GPU code on a CPU: to be imported first, in a process of its own, with `.unsloth` on the path.

Without a GPU, unsloth hands back stock transformers, PEFT and TRL. Here it takes this machine for one with a GPU: its
models, its generated trainer and its loss run, its kernels in Triton's interpreter, and what it puts on "cuda" goes to
main memory. All of it in 32 bits. What does not run: CUDA itself, 4-bit weights, float16 with its scaler, kernels that
are for weights of 16 or 4 bits alone, and unsloth's checkpointing, which needs pinned memory.
"""

import contextlib
import os
import sys
import types

os.environ |= {"UNSLOTH_ALLOW_CPU": "1", "TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"}

import torch
import unsloth
import unsloth.context_parallel
import unsloth.trainer
from torch.overrides import TorchFunctionMode
from unsloth.models import llama, rl


class OnTheCpu(TorchFunctionMode):
    """Reads "cuda", and the number of a GPU, as "cpu"."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.device:
            return torch.device("cpu")
        if "device" in kwargs:
            kwargs["device"] = here(kwargs["device"])
        if getattr(function, "__name__", "") == "to":
            args = tuple(here(value) if isinstance(value, str | torch.device) else value for value in args)
        return function(*args, **kwargs)


def here(device):
    """The device, or "cpu" in place of a GPU."""
    return "cpu" if type(device) is int or str(device).startswith("cuda") else device


class OneForAll(list):
    """A list with a place for every GPU, where there is only one."""

    def __getitem__(self, place):
        return super().__getitem__(0)

    def __setitem__(self, place, value):
        super().__setitem__(0, value)


class OneGpu(int):
    """The number of GPUs; times a list, the list with their places."""

    def __rmul__(self, places):
        return OneForAll(places)


T4 = types.SimpleNamespace(name="T4", total_memory=15 << 30, major=7, minor=5, multi_processor_count=40, warp_size=32)
torch.cuda.get_device_properties = lambda *_: T4
torch.cuda.get_device_capability = lambda *_: (T4.major, T4.minor)
torch.cuda.mem_get_info = lambda *_: (T4.total_memory, T4.total_memory)
torch.cuda.current_device = lambda: 0
llama.get_device_stats = lambda: (T4.name, T4.name, 15.0)
for name, module in list(sys.modules.items()):
    if name.startswith("unsloth"):
        for fake, value in (
            ("DEVICE_COUNT", OneGpu(1)),
            ("get_current_device", lambda: 0),
            ("torch_gpu_device", lambda *_: contextlib.nullcontext()),
        ):
            if fake in vars(module):
                setattr(module, fake, value)
OnTheCpu().__enter__()

# What unsloth does on a GPU when it is imported. Of TRL's trainers it rewrites one here; all of them take long.
os.environ["UNSLOTH_ALLOW_CPU"] = "0"
rl.patch_trl_rl_trainers = lambda: rl._patch_trl_rl_trainers("sft_trainer")
rl.PatchFastRL()
unsloth.trainer._patch_trl_trainer()
unsloth.context_parallel.patch_sft_trainer()

load, here_only = unsloth.FastLanguageModel.from_pretrained, {"device_map": "cpu", "use_gradient_checkpointing": False}
unsloth.FastLanguageModel.from_pretrained = lambda *given, **options: load(*given, **options | here_only)
