"""LoRA for `torch_model.CCL`: what `to-torch --component=lora` writes.

    model.load_lora("FILE", 0.8).load_lora("ANOTHER")

A file has A (r, in) and B (out, r) of each linear layer, and alpha in its
header; a weight W becomes W + scale alpha / r B A. Where a parameter P was
trained in full (lora_full.*), it becomes W + scale (P - W0), with W0 the
model's parameter before any LoRA.
"""

import math
import pathlib

import torch
from safetensors import SafetensorError, safe_open

FILE = "pytorch_lora_weights.safetensors"
HALVES = ".lora_A.weight", ".lora_B.weight"
FULL = "lora_full."


def add_lora(model, path, scale=1.0):
  """Adds a LoRA to the weights of a model; returns the model.

  Either all of it is added, or nothing and a ValueError says why.

  Args:
    path: a file of --lora_style=diffusers, or the folder with it.
    scale: factor of the change; -1 undoes it, up to rounding.
  """
  if not math.isfinite(scale):
    raise ValueError(f"scale={scale}: expected a finite number.")
  tensors, alpha = read(path)
  weights, products = dict(model.named_parameters()), {}
  full = {
    name.removeprefix(FULL): tensors.pop(name)
    for name in list(tensors)
    if name.startswith(FULL)
  }
  for name, value in full.items():
    if name not in weights or value.shape != weights[name].shape:
      raise ValueError(
        f"'{path}' is a LoRA of another model: '{name}' {tuple(value.shape)} is"
        " no parameter of this one."
      )
  for layer in {name.rpartition(".lora_")[0] for name in tensors}:
    a, b = (tensors.get(layer + half) for half in HALVES)
    name = layer.replace("transformer.", "video.", 1) + ".weight"
    if a is None or b is None or name not in weights:
      raise ValueError(
        f"'{path}' has '{layer}', which is no LoRA of a layer of this model."
      )
    weight = weights[name]
    ranks = a.shape[:1], b.shape[1:]
    if (*b.shape[:1], *a.shape[1:]) != weight.shape or ranks[0] != ranks[1]:
      raise ValueError(
        f"'{path}' is a LoRA of another model: A {tuple(a.shape)} and B"
        f" {tuple(b.shape)} do not fit '{name}' {tuple(weight.shape)}."
      )
    products[name] = scale * alpha / len(a), a, b
  first = vars(model).setdefault("before_lora", {})  # W0
  with torch.no_grad():
    for name, value in full.items():
      weight = weights[name]
      base = first.setdefault(name, weight.detach().clone()).to(weight.device)
      moved = scale * (value.to(base.device).float() - base.float())
      weight.copy_(weight.float() + moved)
    for name, (factor, a, b) in products.items():
      weight = weights[name]
      a, b = (x.to(weight.device, torch.float32) for x in (a, b))
      weight.copy_(torch.addmm(weight.float(), b, a, alpha=factor))
  return model


def read(path):
  """Returns the tensors of a file by name, and its alpha."""
  path = pathlib.Path(path)
  path = path / FILE if path.is_dir() else path
  try:
    with safe_open(path, "pt") as file:
      alpha = float((file.metadata() or {})["alpha"])
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (OSError, SafetensorError, KeyError, ValueError) as error:
    raise ValueError(
      f"'{path}' cannot be read ({error}): expected a file of to-torch"
      " --component=lora."
    ) from error
  if not tensors or not math.isfinite(alpha):
    raise ValueError(f"'{path}' has {len(tensors)} arrays and alpha {alpha}.")
  return tensors, alpha
