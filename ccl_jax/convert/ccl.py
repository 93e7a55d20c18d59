"""Names of the joint model in the state dict of `convert.torch_model.CCL`.

    video.*, audio.*         as diffusers names WanTransformer3DModel's arrays;
                             audio's patch_embedding is a linear layer
    fusion.{layer}.video.*   video attends to audio: norm, norm_other, to_q,
                             to_k, to_v, to_out.0, norm_q, norm_k, context
    fusion.{layer}.audio.*   audio attends to video, the same

RoPE rotates pairs of neighbouring channels there, and channels half a head
apart here (see `models.rope`). The queries and keys of self-attention and of
the fusion are therefore permuted, on each side within its own head size. The
keys of the context tokens come from the same projection and are permuted too.

A model with image blocks has our own paths there, with PyTorch's names of the
leaves:

    video/blocks/ffn/up/kernel     video.blocks.{layer}.ffn.up.weight
    fusion/temporal/norm/scale     fusion.{layer}.temporal.norm.weight

In a single file (`is_single`) the video part has Wan's own names, without a
prefix, beside audio.* and fusion.* as above.
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import wan
from ccl_jax.convert.layouts import LINEAR, SAME, half_split
from ccl_jax.convert.rules import LAYER, Rule, Table, scale_and_bias
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.param_names import is_kernel, is_stacked

# Of a model with image blocks, in PyTorch; there "embed" is a method.
_NAMES = {"embed": "patches"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def table(model: Mapping[str, Any], is_single: bool = False) -> Table:
  """Returns the rules for a `model` section, of two streams or one.

  Args:
    is_single: whether they are of a single file.

  Raises:
    ValueError: a single file, and the video part is not Wan's.
  """
  if is_single:
    check_is_wan(model)
  elif is_of_images(model):
    shapes = trees.flatten(functional.describe(model)[1])
    return tuple(map(_own_name, shapes))
  rules = []
  for s in STREAMS:
    if model[s] is not None:
      has_wan_names = is_single and s == "video"
      rules += (
        wan.tables(model)["wan"] if has_wan_names else _stream(s, model[s])
      )
      if model["fusion"]["kind"] != "independent":
        rules += _cross_attention(s, model[s]["width"] // model[s]["heads"])
  return tuple(rules)


def is_of_images(model: Mapping[str, Any]) -> bool:
  """Returns whether the blocks of a model are an image transformer's."""
  return (model["video"] or {}).get("backbone") == "dit"


def check_is_wan(model: Mapping[str, Any]) -> None:
  """Raises ValueError if a video stream is not one of Wan's."""
  if is_of_images(model):
    raise ValueError(
      "the video stream is an image transformer, which has no place in Wan's"
      " class or file: expected --component=all and --layout=folder."
    )


def _stream(s: str, settings: Mapping[str, Any]) -> list[Rule]:
  """Returns diffusers' rules of Wan's video stream, moved to stream `s`."""
  tower = wan.tables({"video": {"patch": 1, **settings}})["diffusers"]
  rules = []
  for rule in tower:
    theirs = tuple(f"{s}.{name}" for name in rule.theirs)
    ours = tuple(s + path.removeprefix("video") for path in rule.ours)
    is_audio_embed = theirs == ("audio.patch_embedding.weight",)
    layout = LINEAR if is_audio_embed else rule.layout
    rules.append(Rule(theirs, ours, layout))
  return rules


def _cross_attention(side: str, head_size: int) -> list[Rule]:
  """Returns the rules of one side's `fusion.cca.CrossAttention`."""
  theirs, ours = f"fusion.{{layer}}.{side}", f"fusion/{side}"
  return [
    *wan.attention(theirs, f"{ours}/attention", 1, half_split(head_size)),
    *scale_and_bias(f"{theirs}.norm", f"{ours}/norm"),
    *scale_and_bias(f"{theirs}.norm_other", f"{ours}/norm_other"),
    Rule(f"{theirs}.context", f"{ours}/context"),
  ]


def _own_name(path: str) -> Rule:
  """Returns the rule of a parameter of a model with image blocks."""
  *names, leaf = path.split("/")
  if is_stacked(path):
    names.insert(1 if names[0] == "fusion" else 2, f"{{{LAYER}}}")
  names = [_NAMES.get(name, name) for name in names]
  theirs = ".".join([*names, _LEAVES[leaf]])
  return Rule(theirs, path, LINEAR if is_kernel(path) else SAME)
