"""AV-DiT (configs/avdit.py) in PyTorch: a frozen image model with adapters.

`torch_model.CCL.from_pretrained` makes these models, whose audio runs through
the video's blocks. See `ccl_jax/models/image_dit.py` and
`ccl_jax/models/fusion/avdit.py` for what each part does; names are the same.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ccl_jax.convert.torch_adapter_layers import (
  MLP,
  ImageBlock,
  Layer,
  sequence_rope,
  turn,
)
from ccl_jax.convert.torch_layers import modulate
from ccl_jax.convert.torch_model import CCL
from ccl_jax.convert.torch_stream import STREAMS, Stream, frames_and_places

# Options of the fusion that a config leaves out.
DEFAULTS = dict(adapter_ratio=0.25, lora_rank=16, window_radius=1)
# Times of the 1000 steps of a DDPM, on the path of flow, x = a x0 + s noise.
_A2 = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
STEP_TIMES = (1 - _A2).sqrt() / (_A2.sqrt() + (1 - _A2).sqrt())


def step_of(t):
  """Returns the step of times, between whole ones by linear interpolation."""
  known = STEP_TIMES.float().to(t.device)
  t = t.float().clamp(known[0], known[-1])
  above = torch.searchsorted(known, t.contiguous()).clamp(1, 999)
  low, high = known[above - 1], known[above]
  return above - 1 + (t - low) / (high - low)


def before_end(t, x):
  """Returns times, at most that of the last step, with the axes of latents."""
  t = t.float().clamp(max=float(STEP_TIMES[-1]))
  return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


class SharedStream(Stream):
  """The first and last layer of a stream; audio is one frame of m tokens."""

  def __init__(
    self, num_layers, text_width, *, width, ffn, heads, channels, patch=1,
    tokens_per_frame=0, learns_variance=False,
    prediction_type="flow_prediction",
  ):  # fmt: skip
    nn.Module.__init__(self)
    self.predicts_noise = prediction_type == "epsilon"
    self.width, self.e, self.patch = width, width // heads, patch
    self.c = tokens_per_frame
    self.image_widths = {"latents": 0, "tokens": 0}
    d_in = channels * patch**2
    self.patches = nn.Linear(d_in, width)
    self.head_rows = nn.Linear(width, 2 * width)
    self.head = nn.Linear(width, d_in * (1 + learns_variance))

  def rope(self, f, h, w, device):
    """Returns nothing: positions are added to the tokens."""

  def embed(self, z, image):
    """Returns the tokens of latents, with their positions."""
    f, h, w = self.grid(z)
    row, column = frames_and_places(f if self.c else h, w)
    if self.c:
      z = z[:, None]
    else:
      z = z.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
      z = z.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(2, 3)
    num = self.width // 4
    frequency = 1e4 ** (-torch.arange(num).double() / num)
    angles = (p.double()[:, None] * frequency for p in (column, row))
    places = torch.cat(
      [g(a) for a in angles for g in (torch.sin, torch.cos)], 1
    )
    x = self.patches(z.type_as(self.patches.weight))
    return x + places.float().to(x.device).type_as(x)

  def scale_input(self, z, t):
    """Returns latents of times t as the network reads them."""
    if not self.predicts_noise:
      return z
    t = before_end(t, z)
    return z / ((1 - t) ** 2 + t**2).sqrt()

  def velocity(self, output, z, t):
    """Returns the velocity of latents z of times t, from the output."""
    if not self.predicts_noise:
      return output
    return (output[..., : z.shape[-1]] - z) / (1 - before_end(t, z))

  def output(self, x, e, shape):
    """Returns what the network predicts of latents of this shape, float32."""
    y = self.head(modulate(x, *self.head_rows(F.silu(e)).chunk(2, -1))).float()
    if not self.c:
      (b, f, h, w, _), p = shape, self.patch
      y = y.view(b, f, h // p, w // p, p, p, -1).transpose(3, 4)
    return y.reshape(*shape[:-1], -1)


class ImageStream(SharedStream):
  """An image model."""

  def __init__(
    self, num_layers, text_width, *, width, ffn, heads, frequency_dim=256,
    **options,
  ):  # fmt: skip
    sizes = dict(width=width, ffn=ffn, heads=heads)
    super().__init__(num_layers, text_width, **sizes, **options)
    self.half = frequency_dim // 2
    self.time = MLP(frequency_dim, width, width)
    self.text = nn.Linear(text_width, width)
    self.blocks = nn.ModuleList(
      ImageBlock(width, ffn, self.e) for _ in range(num_layers)
    )

  def embed_time(self, t, text):
    """Returns the embedding of times and text, and silu of it."""
    t = t[:, None, None] if t.ndim == 1 else t
    frequency = 1e4 ** (-torch.arange(self.half, device=t.device) / self.half)
    steps = step_of(t) if self.predicts_noise else 1000 * t.float()
    angle = steps[..., None] * frequency
    e = self.time(torch.cat([angle.cos(), angle.sin()], -1), F.silu)
    text = text.type_as(self.text.weight)
    num = (text != 0).any(-1).sum(-1, keepdim=True).clamp(min=1)
    mean = (text.float().sum(1) / num).type_as(text)
    e = e + self.text(mean).float()[:, None, None]
    return e, F.silu(e)

  def embed_prompt(self, text, image):
    """Returns nothing: no block reads the text."""


class Adapted(CCL):
  """An image model on frames and sound, with adapters or without."""

  def forward(self, state, t, text, route, image=None):
    """Returns the velocity, as in `CCL`."""
    self.check(state, image or {})
    streams = {s: getattr(self, s) for s in state}
    scaled = {s: streams[s].scale_input(z, t[s]) for s, z in state.items()}
    made = super().forward(scaled, t, text, route, image)
    return {s: streams[s].velocity(made[s], z, t[s]) for s, z in state.items()}

  def make_stream(self, s):
    """Returns a stream of the config."""
    options = dict(self.config[s])
    cls = ImageStream if options.pop("backbone") == "dit" else SharedStream
    return cls(self.config["num_layers"], self.config["text_width"], **options)

  def make_fusion(self):
    """Returns the adapters of each layer, if there are any."""
    has_adapters = self.options["kind"] == "avdit"
    options = {k: self.options.get(k, x) for k, x in DEFAULTS.items()}
    self.window_radius = options.pop("window_radius")
    return nn.ModuleList(
      Layer(self.video.width, self.video.e, **options)
      for _ in range(self.config["num_layers"] * has_adapters)
    )

  def trunk(self, s):
    """Returns the stream whose blocks and times a stream has."""
    return self.video

  def run_layers(self, x, times, prompts, ropes, grids, route, device):
    """Returns the tokens after all blocks."""
    for i, block in enumerate(self.video.blocks):
      rows = {s: block.rows(times[s][1]) for s in x}
      layer = self.fusion[i] if self.fusion else None
      p = block.self_attention
      for s in x:
        lora = layer.audio_lora if layer and s == "audio" else None
        y = modulate(x[s], *rows[s][:2])
        # Frames of the video are a batch axis; audio is one frame.
        out = F.scaled_dot_product_attention(*p(y, lora))
        x[s] = (x[s] + p.out(out) * rows[s][2]).type_as(x[s])
      if layer:
        x = self.adapt(layer, p, x, rows, route, grids)
      for s in x:
        y = block.ffn(modulate(x[s], *rows[s][3:5]))
        x[s] = (x[s] + y * rows[s][5]).type_as(x[s])
    return x

  def adapt(self, layer, p, x, rows, route, grids):
    """Adds attention over both streams, then what each adds to itself."""
    device = next(iter(x.values())).device
    frames = {
      s: frames_and_places(f, h * w)[0].to(device)
      for s, (f, h, w) in grids.items()
    }
    adapters = {"video": layer.joint_video, "audio": layer.joint_audio}
    streams = [s for s in STREAMS if s in x]
    tokens = {s: modulate(x[s], *rows[s][:2]).flatten(1, 2) for s in streams}
    qkv = {s: p(y, layer.joint_lora) for s, y in tokens.items()}
    for s, (q, k, v) in qkv.items():
      rope = sequence_rope(frames[s], q.shape[-1])
      qkv[s] = turn(q, *rope), turn(k, *rope), v
    k, v = (torch.cat([qkv[s][i] for s in streams], 2) for i in (1, 2))
    x = dict(x)
    for s in streams:
      sees = route["sees"][s] & route["exchanges"]
      mask = torch.cat(
        [
          (sees | (o == s))[:, None, None]
          & ((frames[s][:, None] - frames[o]).abs() <= self.window_radius)
          for o in streams
        ],
        2,
      )
      out = F.scaled_dot_product_attention(qkv[s][0], k, v, mask[:, None])
      y = adapters[s](p.out(out)).view_as(x[s])
      x[s] = (x[s] + y * rows[s][2]).type_as(x[s])
    if "video" in x:
      x["video"] = x["video"] + layer.temporal(x["video"])
    if "audio" in x:
      x["audio"] = x["audio"] + layer.audio(x["audio"])
    return x
