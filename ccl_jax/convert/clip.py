"""Names of CLIP's image encoder: Wan's `.pth`, and transformers' files.

Our model stops before the last block, so the last block, the norm after it and
the projection are ignored; so is the text encoder in Wan's file
(`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`).
"""

from collections.abc import Iterable, Iterator, Mapping

from ccl_jax.convert.layouts import CONV2D, relayout
from ccl_jax.convert.rules import (
  Rule,
  Table,
  fused_qkv,
  scale_and_bias,
  weight_and_bias,
)

_BLOCK = "encoder/blocks"
# Layers of a block: our name -> theirs.
_WAN = {
  "attention_norm": "norm1", "mlp_norm": "norm2", "o": "attn.proj",
  "up": "mlp.0", "down": "mlp.2",
}  # fmt: skip
_TRANSFORMERS = {
  "attention_norm": "layer_norm1", "mlp_norm": "layer_norm2",
  "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
  "o": "self_attn.out_proj", "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip


def wan(layers: int = 32) -> Table:
  """Returns the table of Wan's file for an encoder of `layers` blocks."""
  blocks = "visual.transformer.{layer}"
  last = f"visual.transformer.{layers - 1}"
  return (
    Rule("visual.patch_embedding.weight", "patch/kernel", CONV2D),
    Rule("visual.cls_embedding", "class_token", relayout("1 1 d", "d")),
    Rule("visual.pos_embedding", "positions", relayout("1 n d", "n d")),
    *scale_and_bias("visual.pre_norm", "norm"),
    *_blocks(blocks, _WAN),
    *fused_qkv(f"{blocks}.attn.to_qkv", _BLOCK),
    *_ignored(last, [*_WAN.values(), "attn.to_qkv"]),
    *_ignored("visual", ["post_norm"]),
    Rule("visual.head", ()),
    *_text_encoder(),
  )


def transformers(layers: int = 32, prefix: str = "vision_model.") -> Table:
  """Returns the table of CLIPVisionModel, with its projection or without.

  Args:
    layers: blocks of the encoder.
    prefix: of all names but the projection's; a module in memory has none in
      transformers 5.
  """
  embeddings = f"{prefix}embeddings"
  return (
    Rule(f"{embeddings}.patch_embedding.weight", "patch/kernel", CONV2D),
    Rule(f"{embeddings}.class_embedding", "class_token"),
    Rule(f"{embeddings}.position_embedding.weight", "positions"),
    Rule(f"{embeddings}.position_ids", ()),  # 0 .. 256, in old files
    *scale_and_bias(f"{prefix}pre_layrnorm", "norm"),
    *_blocks(f"{prefix}encoder.layers.{{layer}}", _TRANSFORMERS),
    *_ignored(f"{prefix}encoder.layers.{layers - 1}", _TRANSFORMERS.values()),
    *_ignored(prefix.rstrip("."), ["post_layernorm"]),
    Rule("visual_projection.weight", ()),
  )


def _blocks(theirs: str, names: Mapping[str, str]) -> Iterator[Rule]:
  for ours, name in names.items():
    make = scale_and_bias if ours.endswith("norm") else weight_and_bias
    yield from make(f"{theirs}.{name}", f"{_BLOCK}/{ours}")


def _ignored(theirs: str, names: Iterable[str]) -> Iterator[Rule]:
  for name in names:
    path = f"{theirs}.{name}" if theirs else name
    yield from (Rule(f"{path}.{part}", ()) for part in ("weight", "bias"))


def _text_encoder() -> Iterator[Rule]:
  """Yields rules that ignore XLM-RoBERTa."""
  block = [f"attn.{x}" for x in "qkvo"] + ["norm1", "norm2", "ffn.0", "ffn.2"]
  yield from _ignored("textual.blocks.{i}", block)
  yield from _ignored("textual", ["norm"])
  embeddings = [f"{x}_embedding" for x in ("token", "type", "pos")]
  for name in [*embeddings, "head.0", "head.2"]:
    yield Rule(f"textual.{name}.weight", ())
  yield Rule("log_scale", ())
