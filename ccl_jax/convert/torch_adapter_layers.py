"""Layers of `torch_adapters.Adapted`, with our own names."""

import torch
from torch import nn
from torch.nn import functional as F

from ccl_jax.convert.torch_layers import EPS, LayerNorm, RMSNorm, gelu


class Projections(nn.Module):
  """Queries, keys, values and output of an attention."""

  def __init__(self, d, e, has_norms=False):
    super().__init__()
    self.e, self.has_norms = e, has_norms
    self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in "qkvo")
    if has_norms:
      self.norm_q, self.norm_k = RMSNorm(d, EPS), RMSNorm(d, EPS)

  def forward(self, y, lora=None):
    """Returns q, k and v of (..., n, d), as (..., k, n, e)."""
    made = [getattr(self, name)(y) for name in "qkv"]
    if lora is not None:
      made = [x + lora[n](y) for x, n in zip(made, "qkv", strict=True)]
    if self.has_norms:
      made[:2] = self.norm_q(made[0]), self.norm_k(made[1])
    return [x.unflatten(-1, (-1, self.e)).transpose(-3, -2) for x in made]

  def out(self, x):
    """Returns the output of heads (..., k, n, e)."""
    return self.o(x.transpose(-3, -2).flatten(-2))


class MLP(nn.Module):
  """Linear, activation, linear."""

  def __init__(self, d_in, hidden, d):
    super().__init__()
    self.up, self.down = nn.Linear(d_in, hidden), nn.Linear(hidden, d)

  def forward(self, x, activate=gelu):
    return self.down(activate(self.up(x)))


class ImageBlock(nn.Module):
  """A block with adaLN-zero."""

  def __init__(self, d, ffn, e):
    super().__init__()
    self.time_rows = nn.Linear(d, 6 * d)
    self.self_attention, self.ffn = Projections(d, e), MLP(d, ffn, d)

  def rows(self, e):
    """Returns the six rows of silu(e), in float32."""
    p = self.time_rows
    return F.linear(e, p.weight.float(), p.bias.float()).chunk(6, -1)


class LoRA(nn.Module):
  """A low-rank difference of a linear layer."""

  def __init__(self, d, rank):
    super().__init__()
    self.a = nn.Linear(d, rank, bias=False)
    self.b = nn.Linear(rank, d, bias=False)

  def forward(self, x):
    return self.b(self.a(x))


class Adapter(nn.Module):
  """A bottleneck."""

  def __init__(self, d, hidden):
    super().__init__()
    self.norm, self.mlp = LayerNorm(d, EPS), MLP(d, hidden, d)

  def forward(self, x):
    return self.mlp(self.norm(x))


class Temporal(nn.Module):
  """Attention over the frames at each token's place."""

  def __init__(self, d, e):
    super().__init__()
    self.norm, self.attention = LayerNorm(d, EPS), Projections(d, e, True)

  def forward(self, x):
    """Returns what is added to x, (b, f, s, d)."""
    q, k, v = self.attention(self.norm(x).transpose(1, 2))
    frames = torch.arange(x.shape[1], device=x.device)
    rope = sequence_rope(frames, q.shape[-1])
    out = F.scaled_dot_product_attention(turn(q, *rope), turn(k, *rope), v)
    return self.attention.out(out).transpose(1, 2)


def sequence_rope(position, e):
  """Returns RoPE's cos and sin, (n, e / 2) each, of positions (n,)."""
  frequency = 1e4 ** (-torch.arange(0, e, 2).double() / e)
  angle = position.double()[:, None] * frequency.to(position.device)
  return angle.cos().float(), angle.sin().float()


def turn(x, cos, sin):
  """Returns x with pairs of channels half a head apart rotated."""
  a, b = x.float().chunk(2, -1)
  return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).type_as(x)


class Layer(nn.Module):
  """The trainable parts of one layer."""

  def __init__(self, d, e, adapter_ratio, lora_rank):
    super().__init__()
    hidden = max(1, round(d * adapter_ratio))
    self.temporal, self.audio = Temporal(d, e), Adapter(d, hidden)
    self.audio_lora, self.joint_lora = (
      nn.ModuleDict({name: LoRA(d, lora_rank) for name in "qkv"})
      for _ in range(2)
    )
    self.joint_video, self.joint_audio = Adapter(d, hidden), Adapter(d, hidden)
