"""Solvers of `torch_sampling`.

UniPC (order 2, data prediction; arXiv 2302.04867) and Euler are tables of
coefficients: with m_i = x_i - sigma_i v(x_i), the predicted data, x_{i+1} is a
combination of x_i, m_i, m_{i-1}, and once m_{i+1} is known, a corrected one of
x_i, m_{i+1}, m_i, m_{i-1}. Results equal those of diffusers, except that the
model's time is sigma itself here.
"""

import itertools
import math

import torch


def choose(options, name, kind):
  """Returns options[name], or raises a ValueError that lists the names."""
  if name not in options:
    raise ValueError(f"{kind} '{name}': expected one of {', '.join(options)}.")
  return options[name]


def schedule(steps, shift, top=1.0):
  """Returns steps + 1 sigmas from `top` to 0, rounded to float32."""
  line = torch.linspace(1, 1e-3, steps + 1, dtype=torch.float64)[:-1]
  sigmas = (shift * line / (1 + (shift - 1) * line)).float().clamp(max=top)
  return [*sigmas.tolist(), 0.0]


def euler(steps, shift):
  """Yields Euler's (sigma, predictor, corrector) of each step."""
  sigmas = schedule(steps, shift)
  for now, later in itertools.pairwise(sigmas):
    yield now, (later / now, 1 - later / now, 0), (1, 0, 0, 0, 0)


def unipc(steps, shift):
  """Yields UniPC's rows likewise; its first and last step are of order 1."""
  sigmas, correct = schedule(steps, shift, 1 - 1e-6), (1, 0, 0, 0, 0)
  for i, (now, later) in enumerate(itertools.pairwise(sigmas)):
    ratio = later / now
    b = (1 - now) * ratio - (1 - later)
    second = 0 < i < steps - 1
    inverse_r, p, q = (
      second_order(*sigmas[i - 1 : i + 2]) if second else (0, 0, 0.5)
    )
    half, p = inverse_r / 2, p * inverse_r
    yield now, (ratio, -b * (1 - half), -b * half), correct
    correct = 0, ratio, -b * q, -b * (1 - p - q), -b * p


def second_order(*sigmas):
  """Returns 1 / r, p and q of UniPC from three sigmas."""
  before, now, later = (math.log((1 - sigma) / sigma) for sigma in sigmas)
  h = later - now
  r, b = (before - now) / h, math.expm1(-h)
  b1, b2 = (-b / h - 1) / b, 2 * ((b / h + 1) / h - 0.5) / b
  p = (b1 - b2) / (1 - r)
  return 1 / r, p, b1 - p


SOLVERS = {"euler": euler, "unipc": unipc}


def solve(velocity, x, solver, steps, shift):
  """Returns the data that noise x becomes, with velocity(state, sigma)."""

  def combine(weights, *states):
    pairs = list(zip(weights, states, strict=True))
    return {s: sum(w * y[s] for w, y in pairs if w) for s in x}

  last_x = last_m = older_m = None
  rows = choose(SOLVERS, solver, "solver")(steps, shift)
  for sigma, predict, correct in rows:
    v = velocity(x, sigma)
    m = {s: x[s] - sigma * v[s] for s in x}
    x = combine(correct, x, last_x, m, last_m, older_m)
    last_x, x = x, combine(predict, x, m, last_m)
    last_m, older_m = m, last_m
  return x
