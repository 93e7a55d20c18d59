"""A clock that only moves when a test moves it."""

from ccl_jax.training.goodput import Goodput


class Time:
  """Seconds, as `Goodput` reads them."""

  def __init__(self):
    self.seconds = 0.0

  def __call__(self) -> float:
    return self.seconds


def make() -> tuple[Goodput, Time]:
  """A clock and the time that it reads."""
  time = Time()
  return Goodput(time), time


def spend(clock: Goodput, time: Time, event: str, seconds: float) -> None:
  """Lets seconds pass in one event."""
  with clock(event):
    time.seconds += seconds
