"""A training step of the PyTorch CCL in idiomatic PyTorch, with fused AdamW."""

import torch
from torch import nn

from ccl_jax.array_types import STREAMS


class Trainer:
  """The mixed-task objective, AdamW, clipping and a moving average."""

  def __init__(self, model, objective, optimizer, compiled):
    self.model, self.objective = model, objective
    self.clip, self.keep = optimizer["clip_global_norm"], optimizer["ema_decay"]
    self.loss = torch.compile(self.make_loss) if compiled else self.make_loss
    self.params = list(model.parameters())
    self.ema = [p.detach().clone() for p in self.params]
    self.adam = torch.optim.AdamW(
      self.params, lr=optimizer["learning_rates"][0][1], fused=True,
      betas=(optimizer["b1"], optimizer["b2"]), eps=optimizer["eps"],
      weight_decay=optimizer["weight_decay"],
    )  # fmt: skip

  def make_loss(self, batch):
    """Returns the loss for drawn tasks (apart, a2v, v2a, joint) and times."""
    o, b = self.objective, len(batch["text"])
    task = torch.multinomial(
      torch.tensor(o["probabilities"]), b, replacement=True
    )
    generated = {"video": task != 2, "audio": task != 1}
    route = {
      "sees": {s: x & (task != 0) for s, x in generated.items()},
      "is_generated": generated,
      "exchanges": torch.ones_like(task, dtype=torch.bool),
    }
    first, second = torch.randn(2, b).sigmoid()
    drawn = {"video": first, "audio": torch.where(task == 0, second, first)}
    t = {s: drawn[s] * generated[s] for s in STREAMS}
    noise = {s: torch.randn_like(batch[s]) for s in STREAMS}
    noised = {s: torch.lerp(batch[s], noise[s], expand(t[s], batch[s]))
              for s in STREAMS}  # fmt: skip
    dropped = torch.rand(b, 1, 1) < o["text_dropout"]
    text = torch.where(dropped, batch["null_text"], batch["text"])
    velocity = self.model(noised, t, text, route)
    loss = 0.0
    for s in STREAMS:
      error = (velocity[s] - noise[s] + batch[s]).square().flatten(1).mean(1)
      loss += o[f"{s}_weight"] * (error * generated[s]).mean()
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
