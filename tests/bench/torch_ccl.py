"""The tiny CCL model and its training step in PyTorch, written idiomatically.

The same architecture as `ccl_jax.models.joint` with the "cca" fusion, for one
time per sample: fused norms, `scaled_dot_product_attention`, fused AdamW. Only
the names of modules follow ours, so that parameters copy by their paths.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ccl_jax import trees
from ccl_jax.models import rope
from ccl_jax.models.fusion.cca import frame_times

STREAMS = ("video", "audio")


def normalize(x):
  return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rotate(x, turn):
  """x (b, k, n, e), turn = (cos, sin) of (n, e / 2)."""
  (first, second), (cos, sin) = x.chunk(2, -1), turn
  return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class MLP(nn.Module):
  def __init__(self, d_in, d_hidden, d_out, activate):
    super().__init__()
    self.up, self.down = nn.Linear(d_in, d_hidden), nn.Linear(d_hidden, d_out)
    self.activate = activate

  def forward(self, x):
    return self.down(self.activate(self.up(x)))


def gelu_mlp(*dims):
  return MLP(*dims, nn.GELU(approximate="tanh"))


class Attention(nn.Module):
  def __init__(self, d, d_kv, e):
    super().__init__()
    self.e = e
    self.q, self.o = nn.Linear(d, d), nn.Linear(d, d)
    self.k, self.v = nn.Linear(d_kv, d), nn.Linear(d_kv, d)
    self.norm_q, self.norm_k = nn.RMSNorm(d, 1e-6), nn.RMSNorm(d, 1e-6)

  def heads(self, x):
    return x.unflatten(-1, (-1, self.e)).transpose(1, 2)

  def query(self, x):
    return self.heads(self.norm_q(self.q(x)))

  def key_value(self, y):
    return self.heads(self.norm_k(self.k(y))), self.heads(self.v(y))

  def forward(self, q, k, v, mask=None):
    out = F.scaled_dot_product_attention(q, k, v, mask)
    return self.o(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
  def __init__(self, d, ffn, e):
    super().__init__()
    self.modulation = nn.Parameter(torch.empty(6, d))
    self.self_attention = Attention(d, d, e)
    self.text_attention = Attention(d, d, e)
    self.text_norm = nn.LayerNorm(d, 1e-6)
    self.ffn = gelu_mlp(d, ffn, d)

  def attend(self, x, rows, text, turn):
    """Self-attention and text; rows (b, 6, d)."""
    shift, scale, gate = (self.modulation + rows)[:, :3, None].unbind(1)
    y, p = normalize(x) * (1 + scale) + shift, self.self_attention
    k, v = p.key_value(y)
    x = x + p(rotate(p.query(y), turn), rotate(k, turn), v) * gate
    p = self.text_attention
    return x + p(p.query(self.text_norm(x)), *p.key_value(text))

  def feed(self, x, rows):
    shift, scale, gate = (self.modulation + rows)[:, 3:, None].unbind(1)
    return x + self.ffn(normalize(x) * (1 + scale) + shift) * gate


class Stream(nn.Module):
  def __init__(
    self, num_layers, text_width, width, ffn, heads, channels, patch=1,
    frequency_dim=256, **_,
  ):  # fmt: skip
    super().__init__()
    self.e, self.patch = width // heads, patch
    frequency = 1e4 ** (-torch.arange(frequency_dim // 2) * 2 / frequency_dim)
    self.register_buffer("frequency", 1000 * frequency, persistent=False)
    self.embed = nn.Linear(channels * patch**2, width)
    self.text = gelu_mlp(text_width, width, width)
    self.time = MLP(frequency_dim, width, width, nn.SiLU())
    self.time_rows = nn.Linear(width, 6 * width)
    self.blocks = nn.ModuleList(
      Block(width, ffn, self.e) for _ in range(num_layers)
    )
    self.head_modulation = nn.Parameter(torch.empty(2, width))
    self.head = nn.Linear(width, channels * patch**2)

  def embed_time(self, t):
    angle = t[:, None] * self.frequency
    e = self.time(torch.cat([angle.cos(), angle.sin()], -1))
    return e, self.time_rows(F.silu(e)).unflatten(-1, (6, -1))

  def tokens(self, z):
    if z.ndim == 5:
      p = self.patch
      z = z.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # b f h p w q c
      z = z.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(1, 3)
    return self.embed(z)

  def output(self, x, e, shape):
    shift, scale = (self.head_modulation + e[:, None])[:, :, None].unbind(1)
    y = self.head(normalize(x) * (1 + scale) + shift)
    if len(shape) == 5:
      (b, f, h, w, c), p = shape, self.patch
      y = y.view(b, f, h // p, w // p, p, p, c).transpose(3, 4)
    return y.reshape(shape)


class Reader(nn.Module):
  def __init__(self, d, d_other, e, num_context):
    super().__init__()
    self.norm = nn.LayerNorm(d, 1e-6)
    self.norm_other = nn.LayerNorm(d_other, 1e-6)
    self.attention = Attention(d, d_other, e)
    self.context = nn.Parameter(torch.empty(num_context, d_other))

  def forward(self, x, y, turns, mask):
    p = self.attention
    q = rotate(p.query(self.norm(x)), turns[0])
    k, v = p.key_value(self.norm_other(y))
    c = [a.expand(len(x), -1, -1, -1) for a in p.key_value(self.context[None])]
    k, v = torch.cat([c[0], rotate(k, turns[1])], 2), torch.cat([c[1], v], 2)
    return p(q, k, v, mask)


class Fusion(nn.Module):
  def __init__(self, video, audio):
    super().__init__()
    self.video, self.audio = video, audio


class Joint(nn.Module):
  """`settings` is the `model` section of a config, `grid` the (f, h, w) tokens
  of the video: angles and windows are constants."""

  def __init__(self, settings, grid):
    super().__init__()
    shared = {k: settings[k] for k in ("num_layers", "text_width")}
    self.video = Stream(**shared, **settings["video"])
    self.audio = Stream(**shared, **settings["audio"])
    self.num_context = settings["fusion"]["audio_context"]
    if self.num_context != settings["fusion"]["video_context"]:
      raise ValueError("this replica has equally many context tokens a side.")
    d = {s: settings[s]["width"] for s in STREAMS}
    e = {s: getattr(self, s).e for s in STREAMS}
    self.fusion = nn.ModuleList(
      Fusion(
        Reader(d["video"], d["audio"], e["video"], self.num_context),
        Reader(d["audio"], d["video"], e["audio"], self.num_context),
      )
      for _ in range(settings["num_layers"])
    )
    self.make_tables(settings, grid, e)

  def make_tables(self, settings, grid, e):
    """(cos, sin) of every rotation, and who is near whom."""
    (f, h, w), c = grid, settings["audio"]["tokens_per_frame"]
    fusion = settings["fusion"]
    times = frame_times(fusion["positions"], f, c, fusion["fps"])
    video = {s: rope.video_angles(times["video"], h, w, e[s]) for s in STREAMS}
    audio = {s: rope.time_angles(times["audio"], e[s]) for s in STREAMS}
    alone = {
      "video": rope.video_angles(np.arange(f, dtype=float), h, w, e["video"]),
      "audio": rope.sequence_angles(c * f, e["audio"]),
    }
    self.turns = {s: turn(a) for s, a in alone.items()}
    self.cross = {
      "video": (turn(video["video"]), turn(audio["video"])),
      "audio": (turn(audio["audio"]), turn(video["audio"])),
    }
    frame = {"video": torch.arange(f).repeat_interleave(h * w),
             "audio": torch.arange(f).repeat_interleave(c)}  # fmt: skip
    distance = (frame["video"][:, None] - frame["audio"]).abs()
    halves = {s: settings["fusion"][f"{s}_half"] for s in STREAMS}
    self.near = {
      "video": halves["audio"] >= distance,
      "audio": halves["video"] >= distance.T,
    }

  def mask(self, side, sees):
    """(b, 1, n, context + m): the context, and the window if routed."""
    near = self.near[side] & sees[:, None, None, None]
    return F.pad(near, (self.num_context, 0), value=True)

  def forward(self, state, t, text, route):
    towers = {s: getattr(self, s) for s in STREAMS}
    x = {s: towers[s].tokens(state[s]) for s in STREAMS}
    texts = {s: towers[s].text(text) for s in STREAMS}
    times = {s: towers[s].embed_time(t[s]) for s in STREAMS}
    masks = {s: self.mask(s, route[f"{s}_sees"]) for s in STREAMS}
    for i, fusion in enumerate(self.fusion):
      blocks = {s: towers[s].blocks[i] for s in STREAMS}
      x = {
        s: blocks[s].attend(x[s], times[s][1], texts[s], self.turns[s])
        for s in STREAMS
      }
      far = {
        s: torch.where(route[f"{s}_is_generated"][:, None, None], a, a.detach())
        for s, a in x.items()
      }
      x = {
        "video": x["video"] + fusion.video(
          x["video"], far["audio"], self.cross["video"], masks["video"]
        ),
        "audio": x["audio"] + fusion.audio(
          x["audio"], far["video"], self.cross["audio"], masks["audio"]
        ),
      }  # fmt: skip
      x = {s: blocks[s].feed(x[s], times[s][1]) for s in STREAMS}
    return {
      s: towers[s].output(x[s], times[s][0], state[s].shape) for s in STREAMS
    }


def turn(angles):
  angles = torch.from_numpy(np.array(angles))
  return angles.cos(), angles.sin()


@torch.no_grad()
def load(model, params):
  """Copies our parameters; every one of both sides is used, or it raises."""
  ours = {}
  for path, leaf in trees.flatten(params).items():
    *parts, name = path.split("/")
    leaf = torch.from_numpy(np.array(leaf))
    leaf = leaf.mT if name == "kernel" else leaf
    name = {"kernel": "weight", "scale": "weight"}.get(name, name)
    at = parts.index("blocks") + 1 if "blocks" in parts else 1
    if "blocks" in parts or parts[0] == "fusion":
      for i, layer in enumerate(leaf):
        ours[".".join([*parts[:at], str(i), *parts[at:], name])] = layer
    else:
      ours[".".join([*parts, name])] = leaf
  model.load_state_dict(ours, strict=True)


class Trainer:
  """The mixed-task objective, AdamW, clipping and a moving average."""

  def __init__(self, model, objective, optimizer, compiled):
    self.model, self.objective = model, objective
    self.clip, self.keep = optimizer["clip"], optimizer["ema"]
    self.loss = torch.compile(self.make_loss) if compiled else self.make_loss
    self.params = list(model.parameters())
    self.ema = [p.detach().clone() for p in self.params]
    self.adam = torch.optim.AdamW(
      self.params, lr=optimizer["rates"][0][1], fused=True,
      betas=(optimizer["b1"], optimizer["b2"]), eps=optimizer["eps"],
      weight_decay=optimizer["weight_decay"],
    )  # fmt: skip

  def make_loss(self, batch):
    """Draws tasks, times, noise and dropped text; apart, a2v, v2a, joint."""
    o, b = self.objective, len(batch["text"])
    task = torch.multinomial(
      torch.tensor(o["probabilities"]), b, replacement=True
    )
    route = {
      "video_sees": (task == 1) | (task == 3),
      "audio_sees": (task == 2) | (task == 3),
      "video_is_generated": task != 2,
      "audio_is_generated": task != 1,
    }
    first, second = torch.randn(2, b).sigmoid()
    drawn = {"video": first, "audio": torch.where(task == 0, second, first)}
    t = {s: drawn[s] * route[f"{s}_is_generated"] for s in STREAMS}
    noise = {s: torch.randn_like(batch[s]) for s in STREAMS}
    noised = {s: torch.lerp(batch[s], noise[s], expand(t[s], batch[s]))
              for s in STREAMS}  # fmt: skip
    dropped = torch.rand(b, 1, 1) < o["text_dropout"]
    text = torch.where(dropped, batch["null_text"], batch["text"])
    velocity = self.model(noised, t, text, route)
    loss = 0.0
    for s in STREAMS:
      error = (velocity[s] - noise[s] + batch[s]).square().flatten(1).mean(1)
      loss += o[f"{s}_weight"] * (error * route[f"{s}_is_generated"]).mean()
    return loss

  def step(self, batch):
    self.adam.zero_grad()
    loss = self.loss(batch)
    loss.backward()
    nn.utils.clip_grad_norm_(self.params, self.clip)
    self.adam.step()
    with torch.no_grad():
      torch._foreach_lerp_(self.ema, self.params, 1 - self.keep)
    return loss.item()


def expand(t, x):
  return t.view(-1, *[1] * (x.ndim - 1))
