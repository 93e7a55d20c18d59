"""Random weights that hide nothing: no term is near 0, no scale near 1."""


def redraw(module, seed=0):
  """Returns the torch module with random parameters; buffers are kept.

  Weights of norms are 1 +- 0.3, biases and embeddings have deviation 0.3 and 1,
  matrices 1 / sqrt(inputs).
  """
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in module.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      if "norm" in name and name.endswith("weight"):
        p.copy_(1 + 0.3 * noise)
      elif name.endswith("bias"):
        p.copy_(0.3 * noise)
      elif "embed" in name or "shared" in name or "bias" in name:
        p.copy_(noise)
      else:
        p.copy_(noise / p[0].numel() ** 0.5)
  return module.eval()
