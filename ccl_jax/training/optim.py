"""AdamW with a learning rate per parameter path.

    m, v = moments of g / max(1, |g| / clip)
    p -= rate(path) * f(step) * (m / (sqrt(v) + eps) + decay * p)          (1)

f rises linearly to 1 over `warmup_steps`, then stays there or falls as a half
cosine to 0 at the last step. Weight decay applies to matrices ("kernel") only.
A rate of 0 freezes parameters: they get neither optimizer state nor gradients.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from ccl_jax.array_types import PyTree
from ccl_jax.config import (
  check_choice,
  check_pairs,
  check_patterns,
  check_value,
)
from ccl_jax.params import trees
from ccl_jax.params.param_names import is_kernel

# f of eq. 1 after the warm-up, from the number of steps that are left.
SCHEDULES = {
  "constant": lambda steps: optax.constant_schedule(1.0),
  "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
}
FROZEN_DTYPES = ("float32", "bfloat16", "compute")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """Settings of eq. 1: the config's `optimizer` section.

  Args:
    learning_rates: ((path regex, peak rate), ...), first match wins.
    clip_global_norm: largest norm of all gradients together.
    warmup_steps: steps in which f rises.
    schedule: "constant" or "cosine", for the steps after warm-up.
    ema_decay: decay of the parameters' moving average; 0 for no average.
    frozen_dtype: dtype of the parameters with rate 0; "compute" keeps each in
      the dtype that it is used in, which changes no result.

  Raises:
    ValueError: an unknown schedule, numbers out of range, or rates that are not
      pairs.
  """

  learning_rates: tuple[tuple[str, float], ...]
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.01
  clip_global_norm: float = 1.0
  warmup_steps: int = 500
  schedule: str = "constant"
  ema_decay: float = 0.9999
  frozen_dtype: str = "float32"

  def __post_init__(self):
    key, rates = "optimizer.learning_rates", self.learning_rates
    check_pairs(key, rates, (float, int))
    check_patterns(key, (pattern for pattern, _ in rates))
    check_choice("optimizer.schedule", self.schedule, SCHEDULES)
    check_choice("optimizer.frozen_dtype", self.frozen_dtype, FROZEN_DTYPES)
    for name in ("b1", "b2", "ema_decay"):
      self._check(name, 0 <= getattr(self, name) < 1, f"0 <= {name} < 1")
    for name in ("eps", "clip_global_norm"):
      self._check(name, getattr(self, name) > 0, "more than 0, perhaps inf")
    for name in ("weight_decay", "warmup_steps"):
      self._check(name, 0 <= getattr(self, name) < math.inf, "at least 0")
    rated = all(0 <= rate < math.inf for _, rate in rates)
    self._check("learning_rates", rated, "rates of at least 0")

  def _check(self, name: str, is_right: bool, expected: str) -> None:
    """Raises ValueError if a setting is not right."""
    check_value(f"optimizer.{name}", getattr(self, name), is_right, expected)

  def make_schedule(self, num_steps: int) -> optax.Schedule:
    """Returns f of eq. 1, a function of the step from 0; 1 is the peak."""
    rise = optax.linear_schedule(
      1 / max(1, self.warmup_steps), 1.0, self.warmup_steps
    )
    rest = max(1, num_steps - self.warmup_steps)
    fall = SCHEDULES[self.schedule](rest)
    return optax.join_schedules([rise, fall], [self.warmup_steps])

  def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the (trainable, frozen) parameters."""
    return trees.split(params, trees.match(self.learning_rates, params))

  def transform(
    self, trainable: PyTree, num_steps: int
  ) -> optax.GradientTransformation:
    """Returns eq. 1 as a transformation, for parameters of these shapes."""
    rates = trees.match(self.learning_rates, trainable, idle_ok=True)
    matrices = trees.unflatten(
      {path: is_kernel(path) for path in trees.flatten(trainable)}
    )
    scale = optax.stateless(
      lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)
    )
    return optax.chain(
      optax.clip_by_global_norm(self.clip_global_norm),
      optax.scale_by_adam(self.b1, self.b2, self.eps),
      optax.add_decayed_weights(self.weight_decay, matrices),
      scale,
      optax.scale_by_learning_rate(self.make_schedule(num_steps)),
    )
