"""UniPC-2 (B2) with data prediction (Zhao et al. 2023, arXiv 2302.04867).

With times sigma as in `solvers` and

    m_i = x_i - sigma_i v(x_i, sigma_i)             the predicted data
    l_i = log((1 - sigma_i) / sigma_i),  h = l_{i+1} - l_i
    B   = exp(-h) - 1,  D = (m_{i-1} - m_i) / r,  r = (l_{i-1} - l_i) / h
    base(m) = sigma_{i+1} / sigma_i x_i - (1 - sigma_{i+1}) B m

each step first predicts, and once m_{i+1} is known, corrects itself:

    x_{i+1}  = base(m_i + D / 2)
    x_{i+1} <- base(m_i + p D + q (m_{i+1} - m_i))
    b1 = (-B / h - 1) / B,  b2 = 2 ((B / h + 1) / h - 1 / 2) / B
    p  = (b1 - b2) / (1 - r),  q = b1 - p

m_{i+1} is the field at the *uncorrected* x_{i+1}. The first and the last step
are of order 1 (D = 0, q = 1/2); the last lands on m and is not corrected. Both
updates are linear in (x, m), so their coefficients are a table made on the
host in float64 and the solver is one `lax.scan` over its rows.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Float, State
from ccl_jax.diffusion.phases import Fields, Runs, Sigmas, combine, scan


def unipc(
  fields: Fields, runs: Runs, x: State, sigmas: Sigmas, transform_state: Any
) -> tuple[State, State]:
  """Runs UniPC of order 2, equal to diffusers' `UniPCMultistepScheduler`."""
  sigmas = {  # below 1, as log(1 - sigma) is taken
    s: np.minimum(sigma, 1 - 1e-6).astype(np.float32)
    for s, sigma in sigmas.items()
  }
  tables = {s: unipc_table(sigma) for s, sigma in sigmas.items()}

  # Carries the predicted x_i, x_{i-1}, m_{i-1}, m_{i-2} and the field's state.
  def step(field, carry, row):
    predicted, last_x, last_m, older_m, transform_state = carry
    sigma, predict, correct = row
    to_data = {s: (1.0, -x) for s, x in sigma.items()}
    v, transform_state = field(predicted, sigma, transform_state)
    m = combine(to_data, (predicted, v))
    # States in the order of the table's columns.
    x = combine(correct, (predicted, last_x, m, last_m, older_m))
    following = combine(predict, (x, m, last_m))
    return (following, x, m, last_m, transform_state), predicted

  zeros = jax.tree.map(jnp.zeros_like, x)
  rows = (
    {s: sigma[:-1] for s, sigma in sigmas.items()},
    {s: predict for s, (predict, _) in tables.items()},
    {s: correct for s, (_, correct) in tables.items()},
  )
  carry = (x, zeros, zeros, zeros, transform_state)
  (x, *_), states = scan(step, fields, runs, carry, rows)
  return x, states


def unipc_table(
  sigmas: Float[np.ndarray, " sigmas"],
) -> tuple[Float[np.ndarray, "steps 3"], Float[np.ndarray, "steps 5"]]:
  """Computes UniPC's coefficients of the N steps in float64, as float32.

  Args:
    sigmas: falling, the first below 1, the last 0.

  Returns:
    predict (N, 3), the weights in x_{i+1} of x_i, m_i, m_{i-1}; and correct
    (N, 5), those in x_i of the predicted x_i, the corrected x_{i-1}, m_i,
    m_{i-1}, m_{i-2}.
  """
  sigmas = sigmas.astype(np.float64)
  n = len(sigmas) - 1
  predict, correct = np.zeros((n, 3)), np.zeros((n, 5))
  correct[0, 0] = 1  # nothing to correct yet
  for i in range(n):
    now, later = sigmas[i : i + 2]
    ratio = later / now
    alpha_b = (1 - now) * ratio - (1 - later)  # (1 - sigma_{i+1}) B
    inverse_r = p = 0.0
    q = 0.5
    if 0 < i < n - 1:
      inverse_r, p, q = _second_order(*sigmas[i - 1 : i + 2])
    half, p = inverse_r / 2, p * inverse_r
    predict[i] = ratio, -alpha_b * (1 - half), -alpha_b * half
    if i + 1 < n:
      m = -alpha_b * np.array([q, 1 - p - q, p])
      correct[i + 1] = 0, ratio, *m
  return predict.astype(np.float32), correct.astype(np.float32)


def _second_order(before: float, now: float, later: float):
  """Returns 1 / r, p and q of the step now -> later, from three sigmas."""
  l_before, l_now, l_later = (
    math.log((1 - sigma) / sigma) for sigma in (before, now, later)
  )
  h = l_later - l_now
  r = (l_before - l_now) / h
  b = math.expm1(-h)
  b1 = (-b / h - 1) / b
  b2 = 2 * ((b / h + 1) / h - 0.5) / b
  p = (b1 - b2) / (1 - r)
  return 1 / r, p, b1 - p
