"""Names of Wan2.1's transformer, text- or image-to-video: our video stream.

Wan2.2-A14B has the same names: each of its two experts is a 14b model, and its
image-to-video model ("14b-i2v-2.2") has no image tokens.

There are two tables: for Wan-AI's own files (wan/modules/model.py), and for
diffusers' WanTransformer3DModel (the `transformer` folder). Both hold the same
arrays. Our layers are stacked, and our RoPE needs the channels of a head in
another order (see `models.rope`): the tables permute the queries and keys of
self-attention, in kernels, biases and norms.
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.convert.layouts import (
  LINEAR,
  SAME,
  WeightLayout,
  half_split,
  relayout,
)
from ccl_jax.convert.rules import Rule, Table, scale_and_bias, weight_and_bias
from ccl_jax.convert.torch_files import LazyStateDict

LICENCE = "Apache-2.0"
_ROWS = relayout("1 r d", "r d")


def _size(num_layers: int, **video: int) -> dict[str, Any]:
  video = dict(channels=16, patch=2) | video
  return dict(num_layers=num_layers, text_width=4096, video=video)


# The parts of a `model` section that describe the published models.
_14B = dict(num_layers=40, width=5120, ffn=13824, heads=40)
_1_3B = dict(num_layers=30, width=1536, ffn=8960, heads=12)
_IMAGE_CONDITIONING = dict(condition_channels=20, image_width=1280)
SIZES = {
  "14b": _size(**_14B),
  "1.3b": _size(**_1_3B),
  "14b-i2v": _size(**_14B, **_IMAGE_CONDITIONING),
  "1.3b-i2v": _size(**_1_3B, **_IMAGE_CONDITIONING),
  "14b-i2v-2.2": _size(**_14B, condition_channels=20),
}

# Layers: our name -> (Wan's, diffusers').
_EMBEDDER, _IMAGE = "condition_embedder", "condition_embedder.image_embedder"
_OUTSIDE = {
  "text/up": ("text_embedding.0", f"{_EMBEDDER}.text_embedder.linear_1"),
  "text/down": ("text_embedding.2", f"{_EMBEDDER}.text_embedder.linear_2"),
  "time/up": ("time_embedding.0", f"{_EMBEDDER}.time_embedder.linear_1"),
  "time/down": ("time_embedding.2", f"{_EMBEDDER}.time_embedder.linear_2"),
  "time_rows": ("time_projection.1", f"{_EMBEDDER}.time_proj"),
  "head": ("head.head", "proj_out"),
  "image/mlp/up": ("img_emb.proj.1", f"{_IMAGE}.ff.net.0.proj"),
  "image/mlp/down": ("img_emb.proj.3", f"{_IMAGE}.ff.net.2"),
}
_IMAGE_NORMS = {
  "norm_in": ("img_emb.proj.0", f"{_IMAGE}.norm1"),
  "norm_out": ("img_emb.proj.4", f"{_IMAGE}.norm2"),
}
_BLOCK = {
  "ffn/up": ("ffn.0", "ffn.net.0.proj"),
  "ffn/down": ("ffn.2", "ffn.net.2"),
  "image/k": ("cross_attn.k_img", "attn2.add_k_proj"),
  "image/v": ("cross_attn.v_img", "attn2.add_v_proj"),
}
_ATTENTIONS = {
  "self_attention": ("self_attn", "attn1"),
  "text_attention": ("cross_attn", "attn2"),
}
_PROJECTIONS = {
  "q": ("q", "to_q"),
  "k": ("k", "to_k"),
  "v": ("v", "to_v"),
  "o": ("o", "to_out.0"),
}
_TEXT_NORM = ("norm3", "norm2")
_MODULATION = ("modulation", "scale_shift_table")
_IMAGE_KEY_NORM = ("cross_attn.norm_k_img", "attn2.norm_added_k")
_HEAD_MODULATION = ("head.modulation", "scale_shift_table")


def tables(settings: Mapping[str, Any]) -> dict[str, Table]:
  """Returns both tables by name, for a model section like those of `SIZES`."""
  video = settings["video"]
  own = dict(head_size=video["width"] // video["heads"], patch=video["patch"])
  return {"wan": _table(0, **own), "diffusers": _table(1, **own)}


def check(state_dict: LazyStateDict) -> None:
  """Raises ValueError for files of the model conditioned on two images."""
  positions = ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed")
  if found := [name for name in positions if name in state_dict.shapes]:
    raise ValueError(
      f"'{state_dict.origin}' has {found[0]}: it is of the model conditioned on"
      " a first and a last frame (FLF2V), which is not supported. Use Wan2.1's"
      " T2V or I2V."
    )


def _table(source: int, head_size: int, patch: int) -> Table:
  """Returns the table of Wan's names, `source` 0, or diffusers', 1."""
  rules = [
    Rule(
      "patch_embedding.weight",
      "video/embed/kernel",
      relayout("o i 1 p q", "(i p q) o", p=patch, q=patch),
    ),
    Rule("patch_embedding.bias", "video/embed/bias"),
    Rule(_HEAD_MODULATION[source], "video/head_modulation", _ROWS),
  ]
  for ours, theirs in _OUTSIDE.items():
    rules += weight_and_bias(theirs[source], f"video/{ours}")
  for ours, theirs in _IMAGE_NORMS.items():
    rules += scale_and_bias(theirs[source], f"video/image/{ours}")
  block, our_block = "blocks.{layer}", "video/blocks"
  for ours, theirs in _BLOCK.items():
    rules += weight_and_bias(f"{block}.{theirs[source]}", f"{our_block}/{ours}")
  for ours, theirs in _ATTENTIONS.items():
    order = half_split(head_size) if ours == "self_attention" else SAME
    rules += attention(
      f"{block}.{theirs[source]}", f"{our_block}/{ours}", source, order
    )
  image_norm = f"{our_block}/image/norm_k/scale"
  return (
    *rules,
    *scale_and_bias(f"{block}.{_TEXT_NORM[source]}", f"{our_block}/text_norm"),
    Rule(f"{block}.{_MODULATION[source]}", f"{our_block}/modulation", _ROWS),
    Rule(f"{block}.{_IMAGE_KEY_NORM[source]}.weight", image_norm),
    # In some of diffusers' files, and unused there.
    Rule("blocks.{i}.attn2.norm_added_q.weight", ()),
  )


def attention(
  theirs: str, ours: str, source: int, order: WeightLayout
) -> list[Rule]:
  """Returns the rules of `layers.AttentionProjections`.

  Args:
    source: 0 for Wan's names, 1 for diffusers'.
    order: of the channels of queries and keys.
  """
  rules = []
  for name, names in _PROJECTIONS.items():
    own = order if name in "qk" else SAME
    rules += weight_and_bias(
      f"{theirs}.{names[source]}", f"{ours}/{name}", own.then(LINEAR), own
    )
  return rules + [
    Rule(f"{theirs}.norm_{x}.weight", f"{ours}/norm_{x}/scale", order)
    for x in "qk"
  ]
