"""Layers of `torch_model.CCL`, named as in diffusers' WanTransformer3DModel.

Matrices are multiplied in the dtype of their weights; norms, modulation and
softmax are in float32. Sequences are (b, n, d), split into heads (b, k, n, e).
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

EPS = 1e-6
IMAGE_EPS = 1e-5
gelu = functools.partial(F.gelu, approximate="tanh")


def make_rope(time, h, w, dims, device):
  """Returns RoPE's cos and sin, (n, e / 2), of tokens on a grid (t, h, w).

  Args:
    time: (t,), where the frames are in time.
    dims: channels of a head that each of the three axes rotates.
  """
  axes = time, torch.arange(h), torch.arange(w)
  positions = torch.cartesian_prod(*(x.double() for x in axes))
  return token_rope(positions.T, dims, device)


def token_rope(positions, dims, device):
  """Returns RoPE's cos and sin of tokens at (t, h, w), (n,) each."""
  angles = []
  for p, d in zip(positions, dims, strict=True):
    frequency = 1e4 ** (-torch.arange(0, d, 2).double() / d)
    angles.append(p.double()[:, None] * frequency)
  angles = torch.cat(angles, -1).float().to(device)
  return angles.cos(), angles.sin()


def axis_dims(e):
  """Returns the channels of a head for t, h and w: 44, 42, 42 of 128."""
  side = 2 * (e // 6)
  return e - 2 * side, side, side


def rotate(x, rope):
  """Returns x (b, k, n, e) with pairs of neighbouring channels rotated."""
  a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
  cos, sin = rope
  rotated = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
  return rotated.flatten(-2).type_as(x)


def modulate(x, shift, scale):
  """Returns x normalised, scaled by 1 + scale and shifted."""
  y = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
  return (y * (1 + scale) + shift).type_as(x)


class RMSNorm(nn.RMSNorm):
  """RMS norm in float32, over the full width and not by head."""

  def forward(self, x):
    return super().forward(x.float()).type_as(x)


class LayerNorm(nn.LayerNorm):
  """Layer norm in float32, with scale and bias."""

  def forward(self, x):
    return super().forward(x.float()).type_as(x)


class Embedder(nn.Module):
  """Linear, activation, linear: for the time and for the text."""

  def __init__(self, d_in, d):
    super().__init__()
    self.linear_1, self.linear_2 = nn.Linear(d_in, d), nn.Linear(d, d)

  def forward(self, x, activate):
    x = x.type_as(self.linear_1.weight)
    return self.linear_2(activate(self.linear_1(x)))


class FeedForward(nn.Module):
  """Linear, activation, linear, with a hidden width `ffn`."""

  def __init__(self, d_in, ffn, d):
    super().__init__()
    up = nn.ModuleDict({"proj": nn.Linear(d_in, ffn)})
    self.net = nn.ModuleList([up, nn.Identity(), nn.Linear(ffn, d)])

  def forward(self, x, activate):
    up, _, down = self.net
    return down(activate(up["proj"](x)))


class ImageEmbedder(nn.Module):
  """Embedding of CLIP's image tokens, (b, i, w) -> (b, i, d)."""

  def __init__(self, w, d):
    super().__init__()
    self.norm1, self.norm2 = LayerNorm(w, IMAGE_EPS), LayerNorm(d, IMAGE_EPS)
    self.ff = FeedForward(w, w, d)

  def forward(self, tokens):
    tokens = tokens.type_as(self.ff.net[2].weight)
    return self.norm2(self.ff(self.norm1(tokens), F.gelu))


class Attention(nn.Module):
  """Attention: queries of width d, keys and values of d_kv, heads of e."""

  def __init__(self, d, d_kv, e):
    super().__init__()
    self.e = e
    self.to_q, self.to_k = nn.Linear(d, d), nn.Linear(d_kv, d)
    self.to_v, self.to_out = nn.Linear(d_kv, d), nn.Sequential(nn.Linear(d, d))
    self.norm_q, self.norm_k = RMSNorm(d, EPS), RMSNorm(d, EPS)

  def heads(self, x):
    return x.unflatten(-1, (-1, self.e)).transpose(1, 2)

  def query(self, x):
    return self.heads(self.norm_q(self.to_q(x)))

  def key_value(self, y):
    return self.heads(self.norm_k(self.to_k(y))), self.heads(self.to_v(y))

  def attend(self, q, *keys_values, mask=None):
    """Returns the sum of attention to each (k, v), projected."""
    attended = [
      F.scaled_dot_product_attention(q, *kv, mask) for kv in keys_values
    ]
    out = functools.reduce(torch.add, attended)
    return self.to_out(out.transpose(1, 2).flatten(2))


class PromptAttention(Attention):
  """Cross-attention to the text, and to an image with separate projections."""

  def __init__(self, d, e, has_image):
    super().__init__(d, d, e)
    if has_image:
      self.add_k_proj, self.add_v_proj = nn.Linear(d, d), nn.Linear(d, d)
      self.norm_added_k = RMSNorm(d, EPS)

  def image_key_value(self, y):
    k, v = self.norm_added_k(self.add_k_proj(y)), self.add_v_proj(y)
    return self.heads(k), self.heads(v)

  def forward(self, x, text, image):
    keys_values = [self.key_value(text)]
    if image is not None:
      keys_values.append(self.image_key_value(image))
    return self.attend(self.query(x), *keys_values)


class Block(nn.Module):
  """Transformer block of one stream.

  x is (b, f, s, d); `rows`, the modulation from the time, has 6 rows:
  (b, f | 1, s | 1, 6, d).
  """

  def __init__(self, d, ffn, e, has_image):
    super().__init__()
    self.scale_shift_table = nn.Parameter(torch.empty(1, 6, d))
    self.attn1 = Attention(d, d, e)
    self.attn2 = PromptAttention(d, e, has_image)
    self.norm2, self.ffn = LayerNorm(d, EPS), FeedForward(d, ffn, d)

  def attend(self, x, rows, prompt, rope, mask=None):
    """Adds self-attention, then cross-attention to the prompt.

    Args:
      prompt: (text, image), the image None if the model has none.
      mask: of self-attention, true where it attends.
    """
    shift, scale, gate = (self.scale_shift_table + rows).unbind(-2)[:3]
    y, p = modulate(x, shift, scale).flatten(1, 2), self.attn1
    k, v = p.key_value(y)
    y = p.attend(rotate(p.query(y), rope), (rotate(k, rope), v), mask=mask)
    return self.add_text((x + y.view_as(x) * gate).type_as(x), prompt)

  def add_text(self, x, prompt):
    """Adds cross-attention to the prompt."""
    return x + self.attn2(self.norm2(x).flatten(1, 2), *prompt).view_as(x)

  def feed(self, x, rows):
    """Adds the feed-forward network."""
    shift, scale, gate = (self.scale_shift_table + rows).unbind(-2)[3:]
    return (x + self.ffn(modulate(x, shift, scale), gelu) * gate).type_as(x)
