"""Names of the Wan2.1 autoencoder: Wan-AI's own file, and diffusers'.

`WAN` is the table of Wan2.1_VAE.pth, `DIFFUSERS` that of a `vae` folder
(AutoencoderKLWan). Both hold the same arrays. The tables are for the published
architecture with any width: the resolution is halved three times, and each
resolution has two residual blocks in the encoder and three in the decoder.
"""

from collections.abc import Mapping, Sequence

from ccl_jax.convert.layouts import CONV3D, relayout
from ccl_jax.convert.rules import Rule, weight_and_bias

_CONV2D = relayout("o i y x", "1 y x i o")
_POINT2D = relayout("o i 1 1", "i o")
_POINT3D = relayout("o i 1 1 1", "i o")
_SCALE2D = relayout("d 1 1", "d")
_SCALE3D = relayout("d 1 1 1", "d")

# Layers of a residual block: our name -> theirs.
_WAN_BLOCK = {
  "norm1": "residual.0",
  "conv1": "residual.2",
  "norm2": "residual.3",
  "conv2": "residual.6",
  "shortcut": "shortcut",
}
_DIFFUSERS_BLOCK = {
  **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
  "shortcut": "conv_shortcut",
}


def _residual(theirs: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
  rules = [
    Rule(f"{theirs}.{names[norm]}.gamma", f"{ours}/{norm}/scale", _SCALE3D)
    for norm in ("norm1", "norm2")
  ]
  layouts = {"shortcut": _POINT3D, "conv1": CONV3D, "conv2": CONV3D}
  for conv, layout in layouts.items():
    rules += weight_and_bias(
      f"{theirs}.{names[conv]}", f"{ours}/{conv}", layout
    )
  return rules


def _resample(theirs: str, ours: str) -> list[Rule]:
  return [
    *weight_and_bias(f"{theirs}.resample.1", f"{ours}/space", _CONV2D),
    *weight_and_bias(f"{theirs}.time_conv", f"{ours}/time", CONV3D),
  ]


def _attention(theirs: str, ours: str) -> list[Rule]:
  return [
    Rule(f"{theirs}.norm.gamma", f"{ours}/norm/scale", _SCALE2D),
    *weight_and_bias(f"{theirs}.to_qkv", f"{ours}/qkv", _POINT2D),
    *weight_and_bias(f"{theirs}.proj", f"{ours}/out", _POINT2D),
  ]


def _ends(theirs: str, ours: str, names: Sequence[str]) -> list[Rule]:
  conv_in, norm_out, conv_out = names
  return [
    *weight_and_bias(f"{theirs}.{conv_in}", f"{ours}/conv_in", CONV3D),
    Rule(f"{theirs}.{norm_out}.gamma", f"{ours}/norm_out/scale", _SCALE3D),
    *weight_and_bias(f"{theirs}.{conv_out}", f"{ours}/conv_out", CONV3D),
  ]


def _wan() -> list[Rule]:
  rules = [
    *weight_and_bias("conv1", "quant", _POINT3D),
    *weight_and_bias("conv2", "post_quant", _POINT3D),
  ]
  for side, blocks in (("encoder", "downsamples"), ("decoder", "upsamples")):
    rules += _ends(side, side, ("conv1", "head.0", "head.2"))
    rules += _resample(f"{side}.{blocks}.{{i}}", f"{side}/blocks/{{i}}")
    rules += _attention(f"{side}.middle.1", f"{side}/middle/1")
    for theirs, ours in (
      (f"{side}.{blocks}.{{i}}", f"{side}/blocks/{{i}}"),
      (f"{side}.middle.0", f"{side}/middle/0"),
      (f"{side}.middle.2", f"{side}/middle/2"),
    ):
      rules += _residual(theirs, ours, _WAN_BLOCK)
  return rules


def _diffusers() -> list[Rule]:
  rules = [
    *weight_and_bias("quant_conv", "quant", _POINT3D),
    *weight_and_bias("post_quant_conv", "post_quant", _POINT3D),
    *_resample("encoder.down_blocks.{i}", "encoder/blocks/{i}"),
  ]
  residuals = {"encoder.down_blocks.{i}": "encoder/blocks/{i}"}
  for side in ("encoder", "decoder"):
    rules += _ends(side, side, ("conv_in", "norm_out", "conv_out"))
    middle = f"{side}.mid_block"
    rules += _attention(f"{middle}.attentions.0", f"{side}/middle/1")
    residuals[f"{middle}.resnets.0"] = f"{side}/middle/0"
    residuals[f"{middle}.resnets.1"] = f"{side}/middle/2"
  for stage in range(4):  # three blocks; a doubling in all but the last
    theirs, first = f"decoder.up_blocks.{stage}", 4 * stage
    for i in range(3):
      residuals[f"{theirs}.resnets.{i}"] = f"decoder/blocks/{first + i}"
    rules += _resample(f"{theirs}.upsamplers.0", f"decoder/blocks/{first + 3}")
  for theirs, ours in residuals.items():
    rules += _residual(theirs, ours, _DIFFUSERS_BLOCK)
  return rules


WAN = tuple(_wan())
DIFFUSERS = tuple(_diffusers())
