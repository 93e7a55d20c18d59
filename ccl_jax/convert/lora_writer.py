"""Writing of LoRA files that other programs load.

In a file, A is (r, in) and B (out, r); `lora_names` has the names. The metadata
hold alpha and the ranks, also in diffusers' form; ComfyUI reads alpha beside
each layer.
"""

import collections
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from ccl_jax.convert import safetensors_writer
from ccl_jax.convert.lora_names import STYLES, full_name, layers, parameters
from ccl_jax.params import lora
from ccl_jax.params.lora import Factors, Full
from ccl_jax.storage.files import replacing

STEM = "pytorch_lora_weights"


def write(
  output: epath.PathLike,
  model: Mapping[str, Any],
  changes: lora.Changes,
  style: str,
  dtype: Any = np.float32,
  about: Mapping[str, str] | None = None,
  card: str = "",
) -> int:
  """Writes a folder with one file; returns the number of its layers.

  Args:
    about: texts to write into the header.
    card: text of a README.md beside it.

  Raises:
    ValueError: a LoRA of the patch embedding, which the file cannot hold.
  """
  named = parameters(model, style)
  known, arrays, sizes = layers(named), {}, {}
  factors = {p: x for p, x in changes.items() if isinstance(x, Factors)}
  lost = set(factors) - {layer.ours[0] for layer in known.values()}
  if lost:
    raise ValueError(
      f"A LoRA of {', '.join(sorted(lost))} cannot be in such a file: leave it"
      " out of lora.rules."
    )
  for name, layer in known.items():
    if layer.ours[0] in factors:
      a, b, scale = factors[layer.ours[0]]
      a, b = a[layer.index], b[layer.index]
      sizes[name] = a.shape[-1], scale * a.shape[-1]
      arrays[f"{name}.lora_A.weight"] = a.T
      (arrays[f"{name}.lora_B.weight"],) = layer.layout.to_theirs(b)
      if style == "comfyui":
        arrays[f"{name}.alpha"] = np.asarray(sizes[name][1], np.float32)
  for name, layer in named.items():
    if isinstance(full := changes.get(layer.ours[0]), Full):
      x = full.value[layer.index]
      (arrays[full_name(name)],) = layer.layout.to_theirs(x)
  shapes = {
    name: jax.ShapeDtypeStruct(x.shape, dtype if x.ndim else np.float32)
    for name, x in arrays.items()
  }
  header = _metadata(sizes, STYLES[style][0]) | dict(about or {})
  full = sorted(set(changes) - set(factors))
  header |= {"train_also": json.dumps(full)} if full else {}
  with replacing(output) as partial:
    safetensors_writer.write(
      partial, STEM, shapes, arrays.items(), metadata=header
    )
    if card:
      (partial / "README.md").write_text(card)
  return len(sizes)


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
