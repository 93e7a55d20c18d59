"""CLIP's image tower: Wan's `.pth` of both towers, and transformers' names.

The last block, the norm behind it and the projection are in the files and not
in our model, which stops before them; so is the whole text tower of Wan's file
(`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`).
"""

from ccl_jax.convert.layouts import CONV2D, LINEAR, each, fused, relayout
from ccl_jax.convert.rules import Rule, Table

_BLOCK = "encoder/blocks"
_BOTH = ("weight", "bias")
# Of one block, by our name.
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
  """Names of Wan's file, of a tower with as many layers."""
  blocks, last = (
    "visual.transformer.{layer}",
    f"visual.transformer.{layers - 1}",
  )
  qkv = {
    part: tuple(f"{_BLOCK}/{x}/{part}" for x in "qkv")
    for part in ("kernel", "bias")
  }
  return (
    Rule("visual.patch_embedding.weight", "patch/kernel", CONV2D),
    Rule("visual.cls_embedding", "class_token", relayout("1 1 d", "d")),
    Rule("visual.pos_embedding", "positions", relayout("1 n d", "n d")),
    *_norm("visual.pre_norm", "norm"),
    *_blocks(blocks, _WAN),
    Rule(
      f"{blocks}.attn.to_qkv.weight",
      qkv["kernel"],
      fused(3).then(each(LINEAR)),
    ),
    Rule(f"{blocks}.attn.to_qkv.bias", qkv["bias"], fused(3)),
    *_ignored(last, [*_WAN.values(), "attn.to_qkv"]),
    *_ignored("visual", ["post_norm"]),
    Rule("visual.head", ()),
    *_text_tower(),
  )


def transformers(layers: int = 32, prefix: str = "vision_model.") -> Table:
  """Names of CLIPVisionModel in files, with its projection or without.

  prefix: in front of all names but the projection's; a module in memory has
    none in transformers 5.
  """
  embeddings = f"{prefix}embeddings"
  return (
    Rule(f"{embeddings}.patch_embedding.weight", "patch/kernel", CONV2D),
    Rule(f"{embeddings}.class_embedding", "class_token"),
    Rule(f"{embeddings}.position_embedding.weight", "positions"),
    Rule(f"{embeddings}.position_ids", ()),  # 0 .. 256, in old files
    *_norm(f"{prefix}pre_layrnorm", "norm"),
    *_blocks(f"{prefix}encoder.layers.{{layer}}", _TRANSFORMERS),
    *_ignored(f"{prefix}encoder.layers.{layers - 1}", _TRANSFORMERS.values()),
    *_ignored(prefix.rstrip("."), ["post_layernorm"]),
    Rule("visual_projection.weight", ()),
  )


def _norm(theirs: str, ours: str) -> Table:
  return (
    Rule(f"{theirs}.weight", f"{ours}/scale"),
    Rule(f"{theirs}.bias", f"{ours}/bias"),
  )


def _linear(theirs: str, ours: str) -> Table:
  return (
    Rule(f"{theirs}.weight", f"{ours}/kernel", LINEAR),
    Rule(f"{theirs}.bias", f"{ours}/bias"),
  )


def _blocks(theirs: str, names: dict[str, str]) -> Table:
  rules: Table = ()
  for ours, name in names.items():
    make = _norm if ours.endswith("norm") else _linear
    rules += make(f"{theirs}.{name}", f"{_BLOCK}/{ours}")
  return rules


def _ignored(path: str, names) -> Table:
  """Weights and biases that are not read."""
  prefix = f"{path}." if path else ""
  return tuple(Rule(f"{prefix}{n}.{p}", ()) for n in names for p in _BOTH)


def _text_tower() -> Table:
  """XLM-RoBERTa's names, all ignored."""
  block = [f"attn.{x}" for x in "qkvo"] + ["norm1", "norm2", "ffn.0", "ffn.2"]
  tables = [f"{x}_embedding" for x in ("token", "type", "pos")]
  return (
    *_ignored("textual.blocks.{i}", block),
    *_ignored("textual", ["norm"]),
    *(Rule(f"textual.{x}.weight", ()) for x in [*tables, "head.0", "head.2"]),
    Rule("log_scale", ()),
  )
