"""Names of MMAudio's VAE: its own files (v1-16.pth, v1-44.pth) and diffusers'.

MMAudio stores kernels unnormalised, and normalises each output over its inputs
when it loads them (see `codecs.mmaudio_vae`); the kernels in diffusers' files
are normalised already.
"""

import numpy as np

from ccl_jax.convert.layouts import CONV1D, WeightLayout, relayout
from ccl_jax.convert.rules import Rule, Table

_EPSILON = 1e-4


def _normalise(w: np.ndarray) -> tuple[np.ndarray]:
  """Returns w / (1e-4 + rms) / sqrt(inputs), per output over its inputs."""
  x = w.astype(np.float32)
  rms = np.sqrt(np.square(x).mean(axis=(1, 2), keepdims=True))
  inputs = np.sqrt(np.float32(w[0].size))
  return ((x / (_EPSILON + rms) / inputs).astype(w.dtype),)


def _denormalise(w: np.ndarray) -> tuple[np.ndarray]:
  """Returns the kernel that `_normalise` maps to w.

  Raises:
    ValueError: an output has norm 1 or more, so that no such kernel exists.
  """
  x = w.astype(np.float64) * np.sqrt(w[0].size)
  rms = np.sqrt(np.square(x).mean(axis=(1, 2), keepdims=True))
  if rms.max() >= 1:
    raise ValueError(
      f"a kernel has norm {rms.max():.6f}: MMAudio's own files can only hold"
      " kernels of norm below 1. Write diffusers' names instead."
    )
  return ((x * _EPSILON / (1 - rms)).astype(w.dtype),)


NORMALISED = WeightLayout("normalise", _normalise, _denormalise).then(CONV1D)
_BINS = relayout("1 mel 1", "mel")


def _table(prefix: str, conv: WeightLayout) -> Table:
  """Returns the table of files whose convolutions have the layout `conv`."""
  rules = [
    Rule(f"{prefix}data_mean", "mean", _BINS),
    Rule(f"{prefix}data_std", "std", _BINS),
  ]
  convs = {
    "encoder.down.0.downsample.conv1": "encoder/halve/conv1",
    "encoder.down.0.downsample.conv2": "encoder/halve/conv2",
    "decoder.up.1.upsample.conv": "decoder/double",
  }
  for side, levels in (("encoder", "down"), ("decoder", "up")):
    rules.append(Rule(f"{prefix}{side}.learnable_gain", f"{side}/gain"))
    for name in ("conv_in", "conv_out"):
      convs[f"{side}.{name}"] = f"{side}/{name}"
    convs[f"{side}.mid.attn_1.qkv"] = f"{side}/middle/attention/qkv"
    convs[f"{side}.mid.attn_1.proj_out"] = f"{side}/middle/attention/out"
    for theirs, ours in (
      (f"{side}.{levels}.{{i}}.block.{{j}}", f"{side}/levels/{{i}}/{{j}}"),
      (f"{side}.mid.block_{{i}}", f"{side}/middle/block{{i}}"),
    ):
      convs[f"{theirs}.conv1"] = f"{ours}/conv1"
      convs[f"{theirs}.conv2"] = f"{ours}/conv2"
      convs[f"{theirs}.nin_shortcut"] = f"{ours}/shortcut"
  for theirs, ours in convs.items():
    rules.append(Rule(f"{prefix}{theirs}.weight", f"{ours}/kernel", conv))
  return tuple(rules)


MMAUDIO = _table("", NORMALISED)
DIFFUSERS = (
  *_table("vae.", CONV1D),
  Rule("mel_converter.mel_basis", ()),
  Rule("mel_converter.hann_window", ()),
)
