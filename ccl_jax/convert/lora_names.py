"""Names of layers and parameters in LoRA files.

    transformer.blocks.0.attn1.to_q.lora_A.weight        style "diffusers"
    diffusion_model.blocks.0.self_attn.q.lora_A.weight   style "comfyui"

The layers of the audio stream and of the fusion have the names of
`convert.ccl`, without a prefix: a program that knows Wan's video model leaves
them alone.

Parameters that were trained in full (`lora.train_also`) stand beside them:

    lora_full.fusion.0.video.context                 ignored by other programs
    diffusion_model.blocks.0.norm3.set_weight        of the video, for ComfyUI
"""

import re
from collections.abc import Mapping
from typing import Any

from ccl_jax.convert import ccl, matching, wan
from ccl_jax.convert.matching import Assignment
from ccl_jax.models import functional
from ccl_jax.params import trees

# Style -> (prefix of the video stream's layers, naming scheme of `wan.tables`).
STYLES = {
  "diffusers": ("transformer.", "diffusers"),
  "comfyui": ("diffusion_model.", "wan"),
}
# Every name has "lora" in it: diffusers' pipelines refuse files of others.
FULL = "lora_full."
_WITHOUT = re.compile(r"^(transformer|diffusion_model)\.")


def parameters(model: Mapping[str, Any], style: str) -> dict[str, Assignment]:
  """Returns name in a file of all weights -> where it is, of a style."""
  prefix, scheme = STYLES[style]
  shapes = trees.flatten(functional.describe(model)[1])
  video = {p: x for p, x in shapes.items() if p.startswith("video/")}
  others = {p: x for p, x in shapes.items() if p not in video}
  found = [("", a) for a in matching.derive(ccl.table(model), others)]
  if video:
    table = wan.tables(model)[scheme]
    found += [(prefix, a) for a in matching.derive(table, video)]
  return {before + a.theirs[0]: a for before, a in found}


def layers(named: Mapping[str, Assignment]) -> dict[str, Assignment]:
  """Returns name in a file -> kernel, of all linear layers of `parameters`.

  The video's patch embedding is a convolution there, and not among them.
  """
  return {
    name.removesuffix(".weight"): a
    for name, a in named.items()
    if a.ours[0].endswith("/kernel") and a.ours[0] != "video/embed/kernel"
  }


def full_name(name: str) -> str:
  """Returns the name of a parameter that was trained in full."""
  if name.startswith("diffusion_model."):
    return name.removesuffix(".weight") + ".set_weight"
  return FULL + name.replace("transformer.", "video.", 1)


def without_prefix(name: str) -> str:
  """Returns a name without the prefix of a style."""
  return _WITHOUT.sub("", name)


def readable(
  model: Mapping[str, Any],
) -> tuple[dict[str, Assignment], dict[str, tuple[Assignment, bool]]]:
  """Returns names that files may have, without the prefixes of `STYLES`.

  Returns:
    Name of a layer -> where its kernel is; name of an array of a whole
    parameter -> where it is, and whether it is a difference.
  """
  known, full = {}, {}
  for style in STYLES:
    named = parameters(model, style)
    for name, layer in layers(named).items():
      name = without_prefix(name)
      known |= {name: layer, "lora_unet_" + name.replace(".", "_"): layer}
    for name, layer in named.items():
      stem, _, kind = without_prefix(name).rpartition(".")
      diff = f"{stem}.diff_b" if kind == "bias" else f"{stem}.diff"
      if kind not in ("weight", "bias"):  # such as modulation
        diff = f"{stem}.{kind}.diff".removeprefix(".")
      full[diff] = layer, True
      full[without_prefix(full_name(name))] = layer, False
  return known, full
