"""Names of MMAudio's VAE: its own files (v1-16.pth, v1-44.pth) and diffusers'.

MMAudio's kernels have any norm and are normalised when they are loaded, each
output over its inputs, as everywhere in its VAE (see `codecs.mmaudio_vae`);
diffusers' files hold them normalised.
"""

import numpy as np

from ccl_jax.convert.layouts import CONV1D, SAME, Layout, relayout
from ccl_jax.convert.rules import Rule

_EPSILON = 1e-4


def _normalise(w: np.ndarray) -> tuple[np.ndarray]:
  """w / (1e-4 + rms) / sqrt(inputs), both over the inputs of each output."""
  x = w.astype(np.float32)
  rms = np.sqrt(np.square(x).mean(axis=(1, 2), keepdims=True))
  inputs = np.sqrt(np.float32(w[0].size))
  return ((x / (_EPSILON + rms) / inputs).astype(w.dtype),)


def _denormalise(w: np.ndarray) -> tuple[np.ndarray]:
  """The kernel that `_normalise` takes to w.

  Raises:
    ValueError: an output whose norm is 1 or more: there is none.
  """
  x = w.astype(np.float64) * np.sqrt(w[0].size)
  rms = np.sqrt(np.square(x).mean(axis=(1, 2), keepdims=True))
  if rms.max() >= 1:
    raise ValueError(
      f"an MMAudio kernel has norm {rms.max():.6f}: its files keep kernels that"
      " are normalised to below 1 when loaded. Write diffusers' layout."
    )
  return ((x * _EPSILON / (1 - rms)).astype(w.dtype),)


NORMALISED = Layout("normalise", _normalise, _denormalise).then(CONV1D)
_BINS = relayout("1 mel 1", "mel")


def _table(prefix: str, conv: Layout) -> tuple[Rule, ...]:
  names = {
    "data_mean": ("mean", _BINS),
    "data_std": ("std", _BINS),
    "encoder.down.0.downsample.conv1.weight": (
      "encoder/halve/conv1/kernel",
      conv,
    ),
    "encoder.down.0.downsample.conv2.weight": (
      "encoder/halve/conv2/kernel",
      conv,
    ),
    "decoder.up.1.upsample.conv.weight": ("decoder/double/kernel", conv),
  }
  for side, levels in (("encoder", "down"), ("decoder", "up")):
    blocks = {
      f"{levels}.{{i}}.block.{{j}}": "levels/{i}/{j}",
      "mid.block_{i}": "middle/block{i}",
    }
    convs = {
      "conv_in": "conv_in",
      "conv_out": "conv_out",
      "mid.attn_1.qkv": "middle/attention/qkv",
      "mid.attn_1.proj_out": "middle/attention/out",
    }
    for theirs, ours in blocks.items():
      convs[f"{theirs}.conv1"] = f"{ours}/conv1"
      convs[f"{theirs}.conv2"] = f"{ours}/conv2"
      convs[f"{theirs}.nin_shortcut"] = f"{ours}/shortcut"
    for theirs, ours in convs.items():
      names[f"{side}.{theirs}.weight"] = (f"{side}/{ours}/kernel", conv)
    names[f"{side}.learnable_gain"] = (f"{side}/gain", SAME)
  return tuple(
    Rule(prefix + theirs, ours, layout)
    for theirs, (ours, layout) in names.items()
  )


MMAUDIO = _table("", NORMALISED)
DIFFUSERS = (
  *_table("vae.", CONV1D),
  Rule("mel_converter.mel_basis", ()),
  Rule("mel_converter.hann_window", ()),
)
