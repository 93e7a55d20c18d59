"""LoRA files that other programs load, and theirs.

    transformer.blocks.0.attn1.to_q.lora_A.weight        style "diffusers"
    diffusion_model.blocks.0.self_attn.q.lora_A.weight   style "comfyui"

A is (r, in) there, B (out, r). The layers of the audio stream and of the fusion
have the names of `convert.ccl`, without a prefix: a program that knows Wan's
video model leaves them alone. The metadata have alpha and the ranks, in
diffusers' form too; ComfyUI reads alpha beside each layer.

Files of others may have any of `PREFIXES`, lora_down and lora_up for A and B,
or kohya's names (lora_unet_blocks_0_self_attn_q). Where alpha is not told it is
the rank; other ranks in other layers are filled up with zeros.
"""

import collections
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from ccl_jax import lora, trees
from ccl_jax.convert import ccl, matching, safetensors_writer, wan
from ccl_jax.convert.layouts import WeightLayout
from ccl_jax.convert.torch_files import (
  LazyStateDict,
  local_path,
  open_state_dict,
  without_prefixes,
)
from ccl_jax.files import replacing
from ccl_jax.lora import Factors
from ccl_jax.models import functional

# Style -> (prefix of the video stream's layers, naming scheme of `wan.tables`).
STYLES = {
  "diffusers": ("transformer.", "diffusers"),
  "comfyui": ("diffusion_model.", "wan"),
}
STEM = "pytorch_lora_weights"
_PART = re.compile(
  r"(.+)\.(?:(lora_A|lora_down|lora\.down)|(lora_B|lora_up|lora\.up))"
  r"(?:\.default)?\.weight|(.+)\.alpha"
)


class Layer(NamedTuple):
  """Where one layer of a file is in our parameters.

  Attributes:
    kernel: path of the parameter.
    row: index on its leading axis; None for all of it.
    layout: of the kernel, whose outputs B shares.
  """

  kernel: str
  row: int | None
  layout: WeightLayout


def layers(model: Mapping[str, Any], style: str) -> dict[str, Layer]:
  """Returns name in a file -> layer, of all linear layers of a model.

  The video's patch embedding is a convolution there, and not among them.

  Args:
    model: `model` section of a config.
    style: one of STYLES.
  """
  prefix, scheme = STYLES[style]
  shapes = trees.flatten(functional.describe(model)[1])
  video = {p: x for p, x in shapes.items() if p.startswith("video/")}
  others = {p: x for p, x in shapes.items() if p not in video}
  found = [("", a) for a in matching.derive(ccl.table(model), others)]
  if video:
    table = wan.tables(model)[scheme]
    found += [(prefix, a) for a in matching.derive(table, video)]
  return {
    before + a.theirs[0].removesuffix(".weight"): Layer(
      a.ours[0], a.row, a.layout
    )
    for before, a in found
    if a.ours[0].endswith("/kernel") and a.ours[0] != "video/embed/kernel"
  }


def write(
  output: epath.PathLike,
  model: Mapping[str, Any],
  factors: Mapping[str, Factors],
  style: str,
  dtype: Any = np.float32,
  about: Mapping[str, str] | None = None,
) -> int:
  """Writes a folder with one file; returns the number of its layers.

  Args:
    about: texts to write into the header.

  Raises:
    ValueError: a LoRA of the patch embedding, which the file cannot hold.
  """
  known, arrays, sizes = layers(model, style), {}, {}
  lost = set(factors) - {layer.kernel for layer in known.values()}
  if lost:
    raise ValueError(
      f"A LoRA of {', '.join(sorted(lost))} cannot be in such a file: leave it"
      " out of lora.rules."
    )
  for name, (kernel, row, layout) in known.items():
    if kernel in factors:
      a, b, scale = factors[kernel]
      a, b = (a, b) if row is None else (a[row], b[row])
      sizes[name] = a.shape[-1], scale * a.shape[-1]
      arrays[f"{name}.lora_A.weight"] = a.T
      (arrays[f"{name}.lora_B.weight"],) = layout.to_theirs(b)
      if style == "comfyui":
        arrays[f"{name}.alpha"] = np.asarray(sizes[name][1], np.float32)
  shapes = {
    name: jax.ShapeDtypeStruct(x.shape, dtype if x.ndim else np.float32)
    for name, x in arrays.items()
  }
  header = _metadata(sizes, STYLES[style][0]) | dict(about or {})
  with replacing(output) as partial:
    safetensors_writer.write(
      partial / "files", STEM, shapes, arrays.items(), 2**62, header
    )
    file = f"{STEM}.safetensors"
    (partial / "files" / file).rename(partial / file)
    (partial / "files").rmdir()
  return len(sizes)


def read(path: epath.PathLike, model: Mapping[str, Any]) -> dict[str, Factors]:
  """Returns path of a kernel -> A, B and scale, of a file or its folder.

  Raises:
    ValueError: a file that cannot be read, has no LoRA or a part of one, or is
      of another model.
  """
  state = without_prefixes(open_state_dict(local_path(path)))
  known = {}
  for style, (prefix, _) in STYLES.items():
    for name, layer in layers(model, style).items():
      name = name.removeprefix(prefix)
      known |= {name: layer, "lora_unet_" + name.replace(".", "_"): layer}
  parts: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
  for name in state.shapes:
    found = _PART.fullmatch(name)
    layer = found and (found[1] or found[4])
    layer = layer and re.sub(r"^(transformer|diffusion_model)\.", "", layer)
    if layer not in known:
      raise ValueError(
        f"'{path}' has '{name}' {state.shapes[name].shape}, which is no LoRA of"
        " a linear layer of this model."
      )
    kind = "a" if found[2] else "b" if found[3] else "alpha"
    parts[layer][kind] = state.read(name).astype(np.float32)
  alphas = _alphas(state)
  by_kernel = collections.defaultdict(list)
  for name, part in parts.items():
    if {"a", "b"} - part.keys():
      raise ValueError(f"'{path}' has a part of a LoRA for '{name}' only.")
    rank = part["a"].shape[0]
    alpha = float(part.get("alpha", alphas.get(name, alphas.get("", rank))))
    lora.check_scale(f"alpha of '{name}' in '{path}'", alpha)
    by_kernel[known[name].kernel].append((known[name], part, alpha / rank))
  shapes = trees.flatten(functional.describe(model)[1])
  pairs = {
    kernel: _stacked(found, shapes[kernel].shape, path)
    for kernel, found in by_kernel.items()
  }
  return checked(pairs, shapes, str(path))


def _metadata(
  sizes: Mapping[str, tuple[int, float]], prefix: str
) -> dict[str, str]:
  """Returns the header's texts: of all layers, and of the video's for PEFT."""
  video = {
    name.removeprefix(prefix): size
    for name, size in sizes.items()
    if name.startswith(prefix)
  }
  ranks = collections.Counter(rank for rank, _ in sizes.values())
  rank, alpha = ranks.most_common(1)[0][0], next(iter(sizes.values()))[1]
  peft = {
    "r": rank,
    "lora_alpha": alpha,
    "rank_pattern": {f"^{n}": r for n, (r, _) in video.items() if r != rank},
    "alpha_pattern": {f"^{n}": a for n, (_, a) in video.items() if a != alpha},
    "target_modules": list(video),
  }
  text = {"rank": str(rank), "alpha": repr(alpha)}
  if video and prefix == STYLES["diffusers"][0]:
    named = {f"{prefix}{key}": value for key, value in peft.items()}
    text["lora_adapter_metadata"] = json.dumps(named, sort_keys=True)
  return text


def _alphas(state: LazyStateDict) -> dict[str, float]:
  """Returns what the header says of alpha: of a layer, of all others by ""."""
  try:
    peft = json.loads(state.metadata.get("lora_adapter_metadata", "{}"))
    own = (
      {"alpha": state.metadata.get("alpha")}
      if "alpha" in state.metadata
      else {}
    )
    peft = {key.rpartition(".")[2]: value for key, value in peft.items()} | own
    found = {
      n.lstrip("^"): float(x) for n, x in peft.get("alpha_pattern", {}).items()
    }
    default = peft.get("alpha", peft.get("lora_alpha"))
    return found if default is None else found | {"": float(default)}
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(
      f"'{state.origin}' has a header whose alpha cannot be read: {error}"
    ) from error


def _stacked(
  found: list[tuple[Layer, dict[str, np.ndarray], float]],
  shape: tuple[int, ...],
  path: epath.PathLike,
) -> Factors:
  """Returns the layers of one kernel as one A and one B."""
  rank = max(part["a"].shape[0] for _, part, _ in found)
  scales = {scale for _, _, scale in found}
  scale = scales.pop() if len(scales) == 1 else 1.0
  a = np.zeros((*shape[:-2], shape[-2], rank), np.float32)
  b = np.zeros((*shape[:-2], rank, shape[-1]), np.float32)
  for (kernel, row, layout), part, own in found:
    r = part["a"].shape[0]
    at = () if row is None else (row,)
    try:
      b[(*at, slice(r))] = layout.to_ours(part["b"])[0] * (own / scale)
      a[(*at, slice(None), slice(r))] = part["a"].T
    except ValueError as error:
      raise ValueError(
        f"'{path}' is a LoRA of another model: A {part['a'].shape} and B"
        f" {part['b'].shape} do not fit '{kernel}' {shape[-2:]}."
      ) from error
  return Factors(a, b, scale)


def checked(
  pairs: dict[str, Factors], shapes: Mapping[str, Any], path: str
) -> dict[str, Factors]:
  """Returns the LoRA if it fits the model, else raises ValueError."""
  if not pairs:
    raise ValueError(f"'{path}' has no LoRA.")
  for kernel, (a, b, _) in pairs.items():
    made = (*a.shape[:-1], b.shape[-1])
    if made != shapes[kernel].shape:
      raise ValueError(
        f"'{path}' is a LoRA of another model: it is for a '{kernel}' {made},"
        f" this model has {shapes[kernel].shape}."
      )
  return pairs
