"""A profile of some steps, as `--config.profile_steps="(10, 13)"` asks.

    with Profiler(workdir / "profile", (10, 13), num_steps, clock) as profiler:
      for i in range(start, num_steps):
        with profiler.step(i):
          ...

The trace is for `tensorboard --logdir=WORKDIR` with its profile plugin, xprof.
It is of the devices of one process, which stands for all.
"""

import contextlib
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from ccl_jax.files import replacing
from ccl_jax.training.goodput import Goodput


class Profiler:
  """Traces the steps i with window[0] <= i < window[1], counted from 0.

  Args:
    folder: where the trace goes; what an earlier one left there is replaced.
    window: two numbers, or none of them for no trace. Of a run that is resumed
      within the window, the rest is traced.
    num_steps: of the whole run.
    clock: starting and ending a trace is its event "profile".
    is_lead: whether this process is the one that is traced.

  Raises:
    ValueError: a window that is not in the run.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    window: Sequence[int],
    num_steps: int,
    clock: Goodput,
    is_lead: bool = True,
  ):
    if window and not (
      len(window) == 2 and 0 <= window[0] < window[1] <= num_steps
    ):
      raise ValueError(
        f"profile_steps={tuple(window)}: expected (first, end) with 0 <= first"
        f" < end <= {num_steps}, the steps of this run, or () for no profile."
      )
    self._folder, self._clock = folder, clock
    self._window = range(*window) if window else range(0)
    self._is_lead = is_lead
    self._trace = contextlib.ExitStack()
    self._is_open = False

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *error: object) -> None:
    self._stop()  # what there is may tell why the run ended

  def is_last(self, i: int) -> bool:
    """Whether the trace ends with step i, which should be waited for."""
    return bool(self._window) and i == self._window[-1]

  @contextlib.contextmanager
  def step(self, i: int) -> Iterator[None]:
    """Marks step i, and traces it if it is in the window.

    What the device has not done at the end of `is_last` is not in the trace.
    """
    if i in self._window and self._is_lead and not self._is_open:
      self._start()
    with jax.profiler.StepTraceAnnotation("train", step_num=i):
      yield
    if self.is_last(i):
      self._stop()

  def _start(self) -> None:
    with self._clock("profile"):
      folder = self._trace.enter_context(replacing(self._folder))
      jax.profiler.start_trace(folder)
      self._trace.callback(jax.profiler.stop_trace)
      self._is_open = True

  def _stop(self) -> None:
    if self._is_open:
      self._is_open = False
      with self._clock("profile"):
        self._trace.close()
