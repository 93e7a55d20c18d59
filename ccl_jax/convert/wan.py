"""Wan2.1's transformer, text- or image-to-video, and the video stream of ours.

Tables for its two published layouts: Wan-AI's own files, and diffusers'
WanTransformer3DModel (the `transformer` folder). Both hold the same arrays.
Ours stacks the layers, and in queries and keys of self-attention it has the
channels of a head in another order (see `models.rope`): the tables permute
kernels, biases and norms alike.
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.array_types import PyTree
from ccl_jax.convert.layouts import LINEAR, SAME, Layout, half_split, relayout
from ccl_jax.convert.rules import Rule, Table
from ccl_jax.convert.torch_files import LazyStateDict
from ccl_jax.models import joint

_ROWS = relayout("1 r d", "r d")

# The `video` section of a config's model, its layers and the text's width.
SIZES = {
  "14b": dict(
    num_layers=40,
    text_width=4096,
    video=dict(width=5120, ffn=13824, heads=40, channels=16, patch=2),
  ),
  "1.3b": dict(
    num_layers=30,
    text_width=4096,
    video=dict(width=1536, ffn=8960, heads=12, channels=16, patch=2),
  ),
}
_TOLD_OF_IMAGES = dict(condition_channels=20, image_width=1280)
SIZES |= {
  f"{size}-i2v": {**model, "video": {**model["video"], **_TOLD_OF_IMAGES}}
  for size, model in SIZES.items()
}

# Linear layers by our name: Wan's, diffusers'.
_OUTSIDE = {
  "text/up": ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
  "text/down": (
    "text_embedding.2",
    "condition_embedder.text_embedder.linear_2",
  ),
  "time/up": ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
  "time/down": (
    "time_embedding.2",
    "condition_embedder.time_embedder.linear_2",
  ),
  "time_rows": ("time_projection.1", "condition_embedder.time_proj"),
  "head": ("head.head", "proj_out"),
  "image/mlp/up": (
    "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.0.proj",
  ),
  "image/mlp/down": (
    "img_emb.proj.3",
    "condition_embedder.image_embedder.ff.net.2",
  ),
}
_IMAGE_NORMS = {
  "norm_in": ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
  "norm_out": ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
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
# Arrays with a name of their own.
_TEXT_NORM = ("norm3", "norm2")
_MODULATION = ("modulation", "scale_shift_table")
_IMAGE_KEY_NORM = ("cross_attn.norm_k_img", "attn2.norm_added_k")
_HEAD_MODULATION = ("head.modulation", "scale_shift_table")


def wan(head_size: int = 128, patch: int = 2) -> Table:
  """Names of Wan-AI's files (wan/modules/model.py)."""
  return _table(0, head_size, patch)


def diffusers(head_size: int = 128, patch: int = 2) -> Table:
  """Names of WanTransformer3DModel."""
  return _table(1, head_size, patch)


def tables(settings: Mapping[str, Any]) -> dict[str, Table]:
  """Both, for a model section such as those of `SIZES`."""
  video = settings["video"]
  own = dict(head_size=video["width"] // video["heads"], patch=video["patch"])
  return {"wan": wan(**own), "diffusers": diffusers(**own)}


def param_shapes(settings: Mapping[str, Any]) -> PyTree:
  """Of the video stream alone, under "video"."""
  alone = dict(audio=None, fusion=dict(kind="independent"))
  return joint.describe({**settings, **alone})[1]


def check_one_image(tensors: LazyStateDict) -> None:
  """Raises ValueError for files of the model that is told of two images."""
  positions = ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed")
  if found := [name for name in positions if name in tensors.shapes]:
    raise ValueError(
      f"'{tensors.origin}' has {found[0]}: it is the model of a first and"
      " a last frame (FLF2V), which ours is not. Take Wan2.1's T2V or I2V."
    )


def _table(which: int, head_size: int, patch: int) -> Table:
  turned = half_split(head_size)
  rules = [
    Rule(
      "patch_embedding.weight",
      "video/embed/kernel",
      relayout("o i 1 p q", "(i p q) o", p=patch, q=patch),
    ),
    Rule("patch_embedding.bias", "video/embed/bias"),
    Rule(_HEAD_MODULATION[which], "video/head_modulation", _ROWS),
  ]
  for ours, theirs in _OUTSIDE.items():
    rules += _linear(theirs[which], f"video/{ours}")
  for ours, theirs in _IMAGE_NORMS.items():
    rules += _norm(theirs[which], f"video/image/{ours}")
  block, our_block = "blocks.{layer}", "video/blocks"
  for ours, theirs in _BLOCK.items():
    rules += _linear(f"{block}.{theirs[which]}", f"{our_block}/{ours}")
  for ours, theirs in _ATTENTIONS.items():
    rules += attention(
      f"{block}.{theirs[which]}",
      f"{our_block}/{ours}",
      which,
      turned if ours == "self_attention" else SAME,
    )
  rules += _norm(f"{block}.{_TEXT_NORM[which]}", f"{our_block}/text_norm")
  rules += [
    Rule(f"{block}.{_MODULATION[which]}", f"{our_block}/modulation", _ROWS),
    Rule(
      f"{block}.{_IMAGE_KEY_NORM[which]}.weight",
      f"{our_block}/image/norm_k/scale",
    ),
    # In some files of diffusers, and never used.
    Rule("blocks.{i}.attn2.norm_added_q.weight", ()),
  ]
  return tuple(rules)


def _linear(theirs: str, ours: str, order: Layout = SAME) -> list[Rule]:
  """order: of the output channels."""
  return [
    Rule(f"{theirs}.weight", f"{ours}/kernel", order.then(LINEAR)),
    Rule(f"{theirs}.bias", f"{ours}/bias", order),
  ]


def _norm(theirs: str, ours: str) -> list[Rule]:
  return [
    Rule(f"{theirs}.weight", f"{ours}/scale"),
    Rule(f"{theirs}.bias", f"{ours}/bias"),
  ]


def attention(theirs: str, ours: str, which: int, order: Layout) -> list[Rule]:
  """Rules of `layers.AttentionProjections`.

  which: 0 for Wan's names, 1 for diffusers'; order: of the channels of queries
  and keys.
  """
  rules = []
  for name, there in _PROJECTIONS.items():
    own = order if name in "qk" else SAME
    rules += _linear(f"{theirs}.{there[which]}", f"{ours}/{name}", own)
  return rules + [
    Rule(f"{theirs}.norm_{x}.weight", f"{ours}/norm_{x}/scale", order)
    for x in "qk"
  ]
