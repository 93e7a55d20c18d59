"""Names of Wav2Vec2: transformers' files and fairseq's.

Heads for text or for pre-training, which both may have, are ignored.
"""

from collections.abc import Iterator

from ccl_jax.codecs.wav2vec2 import KERNELS, Wav2Vec2Config
from ccl_jax.convert.layouts import CONV1D, weight_norm
from ccl_jax.convert.rules import Rule, Table, scale_and_bias, weight_and_bias

# Our name -> theirs.
_TRANSFORMERS = {
  "feature_norm": "feature_projection.layer_norm",
  "projection": "feature_projection.projection",
  "norm": "encoder.layer_norm",
  "conv": "conv",
  "conv_norm": "layer_norm",
  "channel_norm": "layer_norm",
  "positions": "encoder.pos_conv_embed.conv",
  "attention": "attention",
  "attention_norm": "layer_norm",
  "up": "feed_forward.intermediate_dense",
  "down": "feed_forward.output_dense",
}
_FAIRSEQ = {
  "feature_norm": "layer_norm",
  "projection": "post_extract_proj",
  "norm": "encoder.layer_norm",
  "conv": "0",
  "conv_norm": "2.1",
  "channel_norm": "2",
  "positions": "encoder.pos_conv.0",
  "attention": "self_attn",
  "attention_norm": "self_attn_layer_norm",
  "up": "fc1",
  "down": "fc2",
}
_WEIGHT_NORM = ("weight_g", "weight_v")
_PARAMETRIZED = tuple(f"parametrizations.weight.original{i}" for i in (0, 1))


def tables(config: Wav2Vec2Config) -> dict[str, Table]:
  """Returns the naming schemes of a model."""
  schemes = {
    "transformers": (_TRANSFORMERS, "wav2vec2.", _WEIGHT_NORM),
    "parametrized": (_TRANSFORMERS, "wav2vec2.", _PARAMETRIZED),
    "fairseq": (_FAIRSEQ, "w2v_encoder.w2v_model.", _WEIGHT_NORM),
  }
  found = {}
  for name, (names, prefix, weights) in schemes.items():
    found[name] = tuple(_rules(config, names, "", weights))
    with_head = tuple(_rules(config, names, prefix, weights))
    found[f"{name} with a head"] = with_head
  return found


def _rules(
  config: Wav2Vec2Config,
  names: dict[str, str],
  prefix: str,
  weights: tuple[str, str],
) -> Iterator[Rule]:
  """Yields the rules of a scheme.

  Args:
    names: our name -> theirs.
    prefix: of the model's arrays in a file that has a head as well.
    weights: names of the two arrays of a weight norm.
  """
  for i in range(len(KERNELS)):
    theirs, ours = f"{prefix}feature_extractor.conv_layers.{i}", "features"
    kernel, bias = weight_and_bias(
      f"{theirs}.{names['conv']}", f"{ours}/convs/{i}", CONV1D
    )
    yield from (kernel, bias) if config.is_pre_norm else (kernel,)
    if config.is_pre_norm or i == 0:
      kind = "conv_norm" if config.is_pre_norm else "channel_norm"
      yield from scale_and_bias(f"{theirs}.{names[kind]}", f"{ours}/norms/{i}")
  for name in ("feature_norm", "norm"):
    yield from scale_and_bias(prefix + names[name], name)
  yield from weight_and_bias(prefix + names["projection"], "projection")
  positions = prefix + names["positions"]
  # A norm for each of the frames that the convolution sees.
  yield Rule(
    tuple(f"{positions}.{name}" for name in weights),
    "positions/kernel",
    weight_norm(CONV1D, axis=2),
  )
  yield Rule(f"{positions}.bias", "positions/bias")
  block = f"{prefix}encoder.layers.{{layer}}"
  for name, theirs in zip("qkvo", ("q", "k", "v", "out"), strict=True):
    yield from weight_and_bias(
      f"{block}.{names['attention']}.{theirs}_proj", f"blocks/{name}"
    )
  for name in ("up", "down"):
    yield from weight_and_bias(f"{block}.{names[name]}", f"blocks/{name}")
  yield from scale_and_bias(
    f"{block}.{names['attention_norm']}", "blocks/attention_norm"
  )
  yield from scale_and_bias(f"{block}.final_layer_norm", "blocks/mlp_norm")
  yield from _ignored(prefix)


def _ignored(prefix: str) -> Iterator[Rule]:
  """Yields rules of what only training needs, and of heads."""
  for name in ("masked_spec_embed", "mask_emb"):
    yield Rule(prefix + name, ())
  heads = [
    "lm_head", "project_hid", "project_q", "quantizer.weight_proj",
    "w2v_encoder.proj", f"{prefix}final_proj", f"{prefix}project_q",
    f"{prefix}quantizer.weight_proj",
  ]  # fmt: skip
  for head in dict.fromkeys(heads):
    yield from (Rule(f"{head}.{part}", ()) for part in ("weight", "bias"))
  for name in dict.fromkeys(("", prefix)):
    yield Rule(f"{name}quantizer.codevectors", ())
    yield Rule(f"{name}quantizer.vars", ())
