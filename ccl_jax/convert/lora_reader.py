"""Reading of LoRA files, ours and those of other programs.

In a file, A is (r, in) and B (out, r). Files may have any of `PREFIXES` of
`torch_files`, lora_down and lora_up for A and B, kohya's names
(lora_unet_blocks_0_self_attn_q), and differences of weights and biases (.diff,
.diff_b). If a file does not state alpha, it is the rank; layers of smaller rank
are padded with zeros.
"""

import collections
import json
import re
from collections.abc import Mapping
from typing import Any

import einops
import numpy as np
from etils import epath

from ccl_jax.convert.lora_names import readable, without_prefix
from ccl_jax.convert.matching import Assignment
from ccl_jax.convert.torch_files import (
  LazyStateDict,
  open_state_dict,
  without_prefixes,
)
from ccl_jax.models import functional
from ccl_jax.params import lora, trees
from ccl_jax.params.lora import Factors, Full

_PART = re.compile(
  r"(.+)\.(?:(lora_A|lora_down|lora\.down)|(lora_B|lora_up|lora\.up))"
  r"(?:\.default)?\.weight|(.+)\.alpha"
)


def read(
  path: epath.PathLike, model: Mapping[str, Any]
) -> dict[str, Factors | Full]:
  """Returns path of a parameter -> its change, of a file or its folder.

  Raises:
    ValueError: a file that cannot be read, has no LoRA or a part of one, or is
      of another model.
  """
  state = without_prefixes(open_state_dict(path))
  known, full = readable(model)
  parts: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
  whole: dict[str, list[tuple[Assignment, np.ndarray, bool]]] = (
    collections.defaultdict(list)
  )
  for name in state.shapes:
    found, bare = _PART.fullmatch(name), without_prefix(name)
    layer = without_prefix((found[1] or found[4]) if found else "")
    if bare in full:
      place, is_difference = full[bare]
      x = state.read(name).astype(np.float32)
      whole[place.ours[0]].append((place, x, is_difference))
    elif layer in known:
      kind = "a" if found[2] else "b" if found[3] else "alpha"
      parts[layer][kind] = state.read(name).astype(np.float32)
    else:
      raise ValueError(
        f"'{path}' has '{name}' {state.shapes[name].shape}, which is no LoRA of"
        " a linear layer of this model."
      )
  alphas = _alphas(state)
  by_kernel = collections.defaultdict(list)
  for name, part in parts.items():
    if {"a", "b"} - part.keys():
      raise ValueError(f"'{path}' has a part of a LoRA for '{name}' only.")
    if part["a"].ndim != 2 or part.get("alpha", np.ones(1)).size != 1:
      raise ValueError(
        f"'{path}' has A {part['a'].shape} of '{name}', or several alphas:"
        " expected (rank, inputs) of a linear layer, and one."
      )
    rank = part["a"].shape[0]
    default = np.asarray(alphas.get(name, alphas.get("", rank)))
    alpha = float(part.get("alpha", default).item())
    lora.check_scale(f"alpha of '{name}' in '{path}'", alpha)
    by_kernel[known[name].ours[0]].append((known[name], part, alpha / rank))
  shapes = trees.flatten(functional.describe(model)[1])
  changes = {
    kernel: _stacked(found, shapes[kernel].shape, path)
    for kernel, found in by_kernel.items()
  }
  if both := set(changes) & set(whole):
    raise ValueError(
      f"'{path}' has a LoRA of '{min(both)}' and all of it: expected one."
    )
  changes |= {
    p: _joined(found, shapes[p].shape, path) for p, found in whole.items()
  }
  return checked(changes, shapes, str(path))


def _alphas(state: LazyStateDict) -> dict[str, float]:
  """Returns what the header says of alpha: of a layer, of all others by ""."""
  try:
    peft = json.loads(state.metadata.get("lora_adapter_metadata", "{}"))
    peft = {key.rpartition(".")[2]: value for key, value in peft.items()}
    found = {
      n.lstrip("^"): float(x) for n, x in peft.get("alpha_pattern", {}).items()
    }
    own = peft.get("alpha", peft.get("lora_alpha"))
    default = state.metadata.get("alpha", own)
    return found if default is None else found | {"": float(default)}
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(
      f"'{state.origin}' has a header whose alpha cannot be read: {error}"
    ) from error


def _stacked(
  found: list[tuple[Assignment, dict[str, np.ndarray], float]],
  shape: tuple[int, ...],
  path: epath.PathLike,
) -> Factors:
  """Returns the layers of one kernel as one A and one B."""
  rank = max(part["a"].shape[0] for _, part, _ in found)
  scales = {scale for _, _, scale in found}
  scale = scales.pop() if len(scales) == 1 else 1.0
  a = np.zeros((*shape[:-2], shape[-2], rank), np.float32)
  b = np.zeros((*shape[:-2], rank, shape[-1]), np.float32)
  for layer, part, own in found:
    r = part["a"].shape[0]
    try:
      made = layer.layout.to_ours(part["b"])[0] * (own / scale)
      _fill(b[layer.index][:r], made)
      _fill(a[layer.index][:, :r], part["a"].T)
    except (ValueError, einops.EinopsError) as error:
      raise ValueError(
        f"'{path}' is a LoRA of another model: A {part['a'].shape} and B"
        f" {part['b'].shape} do not fit '{layer.ours[0]}' {shape[-2:]}."
      ) from error
  return Factors(a, b, scale)


def _fill(place: np.ndarray, x: np.ndarray) -> None:
  """Copies an array; ValueError for one that would have to be broadcast."""
  if place.shape != x.shape:
    raise ValueError(f"expected {place.shape}, got {x.shape}")
  place[...] = x


def _joined(
  found: list[tuple[Assignment, np.ndarray, bool]],
  shape: tuple[int, ...],
  path: epath.PathLike,
) -> Full:
  """Returns the rows of one parameter as one array."""
  name = found[0][0].ours[0]
  differences = {is_difference for _, _, is_difference in found}
  num_rows = 1 if found[0][0].row is None else shape[0]
  if differences != {True} and (len(differences) > 1 or len(found) != num_rows):
    raise ValueError(
      f"'{path}' has {len(found)} arrays of '{name}': expected all"
      f" {num_rows}, or differences (.diff) of some."
    )
  value = np.zeros(shape, np.float32)
  for layer, x, _ in found:
    try:
      (row,) = layer.layout.to_ours(x)
    except (ValueError, einops.EinopsError):  # another number of axes
      row = x
    if row.shape != value[layer.index].shape:
      raise ValueError(
        f"'{path}' is a LoRA of another model: {x.shape} does not fit '{name}'"
        f" {shape}."
      )
    value[layer.index] = row
  return Full(value, is_difference=differences == {True})


def checked(
  changes: dict[str, Factors | Full], shapes: Mapping[str, Any], path: str
) -> dict[str, Factors | Full]:
  """Returns the LoRA if it fits the model, else raises ValueError."""
  if not changes:
    raise ValueError(f"'{path}' has no LoRA.")
  for name, change in changes.items():
    if isinstance(change, Full):
      made = change.value.shape
    else:
      made = (*change.a.shape[:-1], change.b.shape[-1])
    if name not in shapes or made != shapes[name].shape:
      expected = f"has {shapes[name].shape}" if name in shapes else "lacks it"
      raise ValueError(
        f"'{path}' is a LoRA of another model: it is for a '{name}' {made},"
        f" this model {expected}."
      )
  return changes
