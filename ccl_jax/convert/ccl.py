"""The joint model as PyTorch names it: `convert.torch_model.CCL`'s state dict.

    video.*, audio.*         as diffusers names WanTransformer3DModel's arrays;
                             audio's patch_embedding is a linear layer
    fusion.{layer}.video.*   video reads audio: norm, norm_other, to_q, to_k,
                             to_v, to_out.0, norm_q, norm_k, context
    fusion.{layer}.audio.*   audio reads video, the same

Queries and keys that RoPE turns pair neighbours there and halves here, in the
streams and in the fusion, each side in its own head size (see `models.rope`).
The context tokens' keys come out of the same projection, permuted alike.
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import wan
from ccl_jax.convert.layouts import LINEAR, half_split
from ccl_jax.convert.rules import Rule, Table


def table(model: Mapping[str, Any]) -> Table:
  """The rules for a `model` section: joint with any fusion, or one stream."""
  rules = []
  for s in STREAMS:
    if model[s] is not None:
      rules += _stream(s, model[s])
      if model["fusion"]["kind"] != "independent":
        rules += _reader(s, model[s]["width"] // model[s]["heads"])
  return tuple(rules)


def _stream(s: str, settings: Mapping[str, Any]) -> list[Rule]:
  """The rules of Wan's tower, moved to stream `s`."""
  tower = wan.tables({"video": {"patch": 1, **settings}})["diffusers"]
  rules = []
  for rule in tower:
    theirs = tuple(f"{s}.{name}" for name in rule.theirs)
    ours = tuple(s + path.removeprefix("video") for path in rule.ours)
    is_audio_embed = theirs == ("audio.patch_embedding.weight",)
    layout = LINEAR if is_audio_embed else rule.layout
    rules.append(Rule(theirs, ours, layout))
  return rules


def _reader(side: str, head_size: int) -> list[Rule]:
  """`fusion.cca.CrossAttention`, the side that reads the other stream."""
  theirs, ours = f"fusion.{{layer}}.{side}", f"fusion/{side}"
  rules = wan.attention(theirs, f"{ours}/attention", 1, half_split(head_size))
  for norm in ("norm", "norm_other"):
    rules += [
      Rule(f"{theirs}.{norm}.weight", f"{ours}/{norm}/scale"),
      Rule(f"{theirs}.{norm}.bias", f"{ours}/{norm}/bias"),
    ]
  return [*rules, Rule(f"{theirs}.context", f"{ours}/context")]
