"""A profile of some steps, set by `--config.log.profile_steps="(10, 13)"`.

    with Profiler(workdir / "profile", (10, 13), num_steps, clock) as profiler:
      for i in range(start, num_steps):
        with profiler.step(i):
          ...

`tensorboard --logdir=WORKDIR` with its profile plugin, xprof, shows the trace.
It covers the devices of process 0, as all processes run the same program. The
plugin can also take a trace at any time, from the port of this process that
`--config.log.profiler_port=PORT` opens.
"""

import contextlib
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from ccl_jax.config import check_value
from ccl_jax.storage.files import replacing
from ccl_jax.training.goodput import Goodput


class Profiler:
  """Tracer of the steps i with window[0] <= i < window[1], counted from 0.

  Args:
    folder: of the trace; an earlier trace there is replaced.
    window: two numbers, or () for no trace. A run that resumes within the
      window traces the rest of it.
    num_steps: of the run.
    clock: counts starting and ending the trace for its event "profile".
    is_lead: whether this process is traced.
    port: at which it serves traces on request; 0 for none.

  Raises:
    ValueError: a window that is not within the run, or a port out of range.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    window: Sequence[int],
    num_steps: int,
    clock: Goodput,
    is_lead: bool = True,
    port: int = 0,
  ):
    check_value(
      "config.log.profiler_port", port, 0 <= port < 2**16,
      "1 to 65535, or 0 for none",
    )  # fmt: skip
    is_within = len(window) == 2 and 0 <= window[0] < window[1] <= num_steps
    check_value(
      "config.log.profile_steps", tuple(window), is_within or not window,
      f"(first, last + 1) within the {num_steps} steps of this run, or () for"
      " no profile",
    )  # fmt: skip
    self._folder, self._clock = folder, clock
    self._window = range(*window) if window else range(0)
    self._is_lead, self._port = is_lead, port
    self._trace = contextlib.ExitStack()
    self._is_open = False

  def __enter__(self) -> "Profiler":
    if self._port and self._is_lead:
      jax.profiler.start_server(self._port)
    return self

  def __exit__(self, *error: object) -> None:
    self._stop()  # Even if the run fails: the trace may show why.
    if self._port and self._is_lead:
      jax.profiler.stop_server()

  def is_last(self, i: int) -> bool:
    """Returns whether i is the last step to trace; wait for it in `step(i)`."""
    return bool(self._window) and i == self._window[-1]

  @contextlib.contextmanager
  def step(self, i: int) -> Iterator[None]:
    """Marks step i, and traces it if it is in the window.

    The trace ends with the block of step `is_last`: what the device has not
    finished then is missing.
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
