"""Loads files of `torch.save`: their tensors, and never any code."""

import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

_CODE = re.compile(r"GLOBAL (\S+)")
_NESTED = ("state_dict", "model", "generator", "module")


def load(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the tensors of a file by name, and everything else in it."""
  state, other = _unpickle(path), {}
  if not isinstance(state, Mapping):
    raise ValueError(f"'{path}' holds a {type(state).__name__}, not arrays.")
  inner = [k for k in _NESTED if isinstance(state.get(k), Mapping)]
  if inner and not any(_is_tensor(x) for x in state.values()):
    other = {k: v for k, v in state.items() if k not in inner}
    state = state[inner[0]]
  arrays = {str(k): v for k, v in state.items() if _is_tensor(v)}
  other |= {k: v for k, v in state.items() if not _is_tensor(v)}
  if not arrays:
    raise ValueError(f"'{path}' holds no arrays; it has {list(other)[:10]}.")
  return arrays, other


def _unpickle(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      f"'{path}' needs PyTorch to be read (pip install torch); safetensors do"
      " not."
    ) from error
  # Only files of the newer kind, a zip, can be mapped.
  mmap = zipfile.is_zipfile(path)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Other pickles are refused below.
      return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
  except Exception as error:  # Damaged files fail in many ways.
    if found := _CODE.search(str(error)):
      raise ValueError(
        f"'{path}' is a pickle with code ({found[1]}), which is refused. Save"
        " its arrays alone, preferably as safetensors."
      ) from error
    reason = first_line(error)
    if "weights_only" in str(error):  # torch's message says how to run code.
      reason = "not written by torch.save"
    raise ValueError(
      f"'{path}' is not a PyTorch file, or cut short: {reason}"
    ) from error


def _is_tensor(x: Any) -> bool:
  import torch

  return isinstance(x, torch.Tensor)


def numpy_dtype(dtype: Any) -> np.dtype:
  """Returns numpy's dtype: that of ml_dtypes for torch.bfloat16 and float8."""
  name = str(dtype).removeprefix("torch.")
  known = {"bool": np.bool_, "bfloat16": ml_dtypes.bfloat16}
  return np.dtype(known.get(name) or getattr(ml_dtypes, name, name))


def to_numpy(x: Any) -> np.ndarray:
  """Returns the tensor as an array that shares its memory."""
  import torch

  x = x.detach()
  dtype = numpy_dtype(x.dtype)
  if dtype.kind == "V" or dtype == ml_dtypes.bfloat16:
    bits = {1: torch.uint8, 2: torch.int16}[dtype.itemsize]
    return x.contiguous().view(bits).numpy().view(dtype)
  return x.numpy()


def first_line(error: Exception) -> str:
  """Returns the first line of a message, or the error's name."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]
