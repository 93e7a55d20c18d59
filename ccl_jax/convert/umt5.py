"""Names of umT5's encoder: Wan's `.pth`, and transformers' files.

Wan's file is `models_t5_umt5-xxl-enc-bf16.pth`. transformers' names are those
of a `text_encoder` folder (UMT5EncoderModel); in a folder of the full model
(`google/umt5-xxl`) the decoder is ignored.
"""

from ccl_jax.convert.layouts import LINEAR
from ccl_jax.convert.rules import Rule, Table

_BLOCK = "encoder/blocks"


def _linears(theirs: str, names: dict[str, str]) -> Table:
  """Returns rules for linear layers without bias, from our name -> theirs."""
  return tuple(
    Rule(f"{theirs}.{name}.weight", f"{_BLOCK}/{ours}/kernel", LINEAR)
    for ours, name in names.items()
  )


WAN = (
  Rule("token_embedding.weight", "tokens"),
  Rule("norm.weight", "encoder/norm/scale"),
  Rule("blocks.{layer}.norm1.weight", f"{_BLOCK}/attention_norm/scale"),
  Rule("blocks.{layer}.norm2.weight", f"{_BLOCK}/mlp_norm/scale"),
  Rule("blocks.{layer}.pos_embedding.embedding.weight", f"{_BLOCK}/bias"),
  *_linears(
    "blocks.{layer}",
    {x: f"attn.{x}" for x in "qkvo"}
    | {"gate": "ffn.gate.0", "up": "ffn.fc1", "down": "ffn.fc2"},
  ),
)

_ATTENTION = "encoder.block.{layer}.layer.0"
_MLP = "encoder.block.{layer}.layer.1"
_DECODER_BLOCK = "decoder.block.{i}.layer"
_DECODER = (
  *(f"0.SelfAttention.{x}" for x in "qkvo"),
  "0.SelfAttention.relative_attention_bias",
  *(f"1.EncDecAttention.{x}" for x in "qkvo"),
  *(f"2.DenseReluDense.{x}" for x in ("wi_0", "wi_1", "wo")),
  *(f"{i}.layer_norm" for i in range(3)),
)

TRANSFORMERS = (
  Rule("shared.weight", "tokens"),
  Rule("encoder.embed_tokens.weight", ()),  # the same array again
  Rule("encoder.final_layer_norm.weight", "encoder/norm/scale"),
  Rule(f"{_ATTENTION}.layer_norm.weight", f"{_BLOCK}/attention_norm/scale"),
  Rule(f"{_MLP}.layer_norm.weight", f"{_BLOCK}/mlp_norm/scale"),
  Rule(
    f"{_ATTENTION}.SelfAttention.relative_attention_bias.weight",
    f"{_BLOCK}/bias",
  ),
  *_linears(f"{_ATTENTION}.SelfAttention", {x: x for x in "qkvo"}),
  *_linears(
    f"{_MLP}.DenseReluDense", {"gate": "wi_0", "up": "wi_1", "down": "wo"}
  ),
  *(Rule(f"{_DECODER_BLOCK}.{x}.weight", ()) for x in _DECODER),
  Rule("decoder.embed_tokens.weight", ()),
  Rule("decoder.final_layer_norm.weight", ()),
  Rule("lm_head.weight", ()),
)
