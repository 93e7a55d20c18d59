"""Names of BigVGAN's generator, the same in v1 and v2.

Published files (best_netG.pt, bigvgan_generator.pt) store each kernel as a
weight norm, for whose two arrays PyTorch has two naming schemes; diffusers'
vocoder has plain kernels. The filters of the activations, which files also
hold, are ignored, as they are computed here.
"""

from ccl_jax.convert.layouts import CONV1D, CONV_TRANSPOSE1D, weight_norm
from ccl_jax.convert.rules import Rule, Table


def _table(*weights: str) -> Table:
  """Returns the table of files whose kernels consist of `weights`."""
  convs = {
    "conv_pre": ("conv_pre", CONV1D),
    "conv_post": ("conv_post", CONV1D),
    "ups.{i}.0": ("ups/{i}", CONV_TRANSPOSE1D),
    "resblocks.{i}.convs1.{j}": ("blocks/{i}/convs1/{j}", CONV1D),
    "resblocks.{i}.convs2.{j}": ("blocks/{i}/convs2/{j}", CONV1D),
  }
  activations = {
    "activation_post": "activation_post",
    "resblocks.{i}.activations.{j}": "blocks/{i}/activations/{j}",
  }
  rules = []
  for theirs, (ours, layout) in convs.items():
    names = tuple(f"{theirs}.{name}" for name in weights)
    layout = weight_norm(layout) if len(weights) == 2 else layout
    rules.append(Rule(names, f"{ours}/kernel", layout))
    rules.append(Rule(f"{theirs}.bias", f"{ours}/bias"))
  for theirs, ours in activations.items():
    rules += [
      Rule(f"{theirs}.act.alpha", f"{ours}/alpha"),
      Rule(f"{theirs}.act.beta", f"{ours}/beta"),
      Rule(f"{theirs}.upsample.filter", ()),
      Rule(f"{theirs}.downsample.lowpass.filter", ()),
    ]
  return tuple(rules)


BIGVGAN = _table("weight_g", "weight_v")
PARAMETRIZED = _table(
  "parametrizations.weight.original0", "parametrizations.weight.original1"
)
DIFFUSERS = _table("weight")  # and files after remove_weight_norm
