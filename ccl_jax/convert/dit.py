"""Names of DiT's image transformer (arXiv 2212.09748): `models.image_dit`.

There are two tables: for facebookresearch/DiT's own files
(DiT-XL-2-256x256.pt), and for diffusers' DiTTransformer2DModel. The last row of
the published class embeddings stands for "no class"; here it is a bias, and
each class is the difference from it. Positions are computed, not read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ccl_jax.convert.layouts import WeightLayout, relayout
from ccl_jax.convert.rules import Rule, Table, fused_qkv, weight_and_bias

LICENCE = "CC-BY-NC-4.0"


def _size(num_layers: int, width: int, heads: int) -> dict[str, Any]:
  return dict(
    num_layers=num_layers,
    text_width=1000,  # the classes of ImageNet
    video=dict(
      backbone="dit", width=width, ffn=4 * width, heads=heads, channels=4,
      patch=2, learns_variance=True, prediction_type="epsilon",
    ),
  )  # fmt: skip


# The parts of a `model` section that describe the paper's models.
SIZES = {
  "xl-2": _size(28, 1152, 16),
  "l-2": _size(24, 1024, 16),
  "b-2": _size(12, 768, 12),
  "s-2": _size(12, 384, 6),
}

# Layers: our name -> (DiT's, diffusers').
_EMB = "transformer_blocks.0.norm1.emb"  # of which every block has a copy
_OUTSIDE = {
  "time/up": ("t_embedder.mlp.0", f"{_EMB}.timestep_embedder.linear_1"),
  "time/down": ("t_embedder.mlp.2", f"{_EMB}.timestep_embedder.linear_2"),
  "head_rows": ("final_layer.adaLN_modulation.1", "proj_out_1"),
  "head": ("final_layer.linear", "proj_out_2"),
}
_BLOCK = {
  "time_rows": ("adaLN_modulation.1", "norm1.linear"),
  "self_attention/o": ("attn.proj", "attn1.to_out.0"),
  "ffn/up": ("mlp.fc1", "ff.net.0.proj"),
  "ffn/down": ("mlp.fc2", "ff.net.2"),
}
_PATCH = ("x_embedder.proj", "pos_embed.proj")
_CLASSES = (
  "y_embedder.embedding_table.weight",
  f"{_EMB}.class_embedder.embedding_table.weight",
)
_BLOCKS = ("blocks.{layer}", "transformer_blocks.{layer}")
# A table of classes, the last of them none, as differences from it and itself.
_NO_CLASS = WeightLayout(
  "differences from the last row",
  lambda table: (table[:-1] - table[-1:], table[-1]),
  lambda kernel, bias: (np.concatenate([kernel + bias, bias[None]]),),
)


def tables(settings: Mapping[str, Any]) -> dict[str, Table]:
  """Returns both tables by name, for a model section like those of `SIZES`."""
  patch, depth = settings["video"]["patch"], settings["num_layers"]
  copied = [_CLASSES[1]]
  for path in ("time/up", "time/down"):
    copied += [f"{_OUTSIDE[path][1]}.{part}" for part in ("weight", "bias")]
  copies = [
    Rule(name.replace(".0.", f".{i}.", 1), ())
    for i in range(1, depth)
    for name in copied
  ]
  return {
    "dit": (*_table(0, patch), Rule("pos_embed", ())),
    "diffusers": (*_table(1, patch), *copies),
  }


def _table(source: int, patch: int) -> list[Rule]:
  """Returns the rules of DiT's names, `source` 0, or diffusers', 1."""
  pixels = relayout("o i p q", "(i p q) o", p=patch, q=patch)
  rules = [
    *weight_and_bias(_PATCH[source], "video/embed", pixels),
    Rule(_CLASSES[source], ("video/text/kernel", "video/text/bias"), _NO_CLASS),
  ]
  for ours, theirs in _OUTSIDE.items():
    rules += weight_and_bias(theirs[source], f"video/{ours}")
  block, our_block = _BLOCKS[source], "video/blocks"
  for ours, theirs in _BLOCK.items():
    rules += weight_and_bias(f"{block}.{theirs[source]}", f"{our_block}/{ours}")
  attention = f"{our_block}/self_attention"
  if source == 0:
    rules += fused_qkv(f"{block}.attn.qkv", attention)
  else:
    for name in "qkv":
      rules += weight_and_bias(
        f"{block}.attn1.to_{name}", f"{attention}/{name}"
      )
  return rules
