"""Devices, types and cores that a network can run on, by the names that `load_model` takes."""

from __future__ import annotations

import os

import torch

from mt3_infer.errors import InvalidOptionError
from mt3_infer.inference.threads import available_cpus

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device of a name: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        InvalidOptionError: there is none of that name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidOptionError(
            f"There is no device {name!r}: it can be 'auto', 'cpu', 'cuda' or 'cuda:1'."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidOptionError(f"This network runs on 'cpu' or 'cuda', not on {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidOptionError(f"This machine has no device {name!r}.")
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type of a name; "auto" is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        InvalidOptionError: that device does not multiply in that type.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES or (name == "float16" and device.type == "cpu"):
        known = ", ".join(DTYPES if device.type == "cuda" else ["float32", "bfloat16"])
        raise InvalidOptionError(f"There is no dtype {name!r} on {device.type}; choose one of: auto, {known}.")
    return DTYPES[name]


def check_batch_size(batch_size: int | None) -> None:
    """Raises: InvalidOptionError: no segment at all would fit."""
    if batch_size is not None and batch_size < 1:
        raise InvalidOptionError(f"batch_size is {batch_size}, but must be at least 1.")


def check_device_options(
    *, device: str = "auto", dtype: str = "auto", batch_size: int | None = None, **_training: object
) -> None:
    """Raise if a network cannot be loaded so on this machine, whatever its weights are.

    Raises:
        InvalidOptionError
    """
    find_dtype(dtype, find_device(device))
    check_batch_size(batch_size)


def use_all_cpus(device: torch.device) -> None:
    """Make PyTorch use the cores that this process may use, unless OMP_NUM_THREADS is set."""
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cpus())
