"""Signals in one process; tests/faults_test.py has several."""

import os
import signal

import pytest

from ccl_jax.training.preemption import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish(number):
  done = []
  with StopSignal() as stop:
    for i in range(1, 10):
      if i == 3:
        os.kill(os.getpid(), number)
      done.append(i)
      if stop.should_stop(i):
        break
  assert done == [1, 2, 3]
  assert stop.received == signal.Signals(number).name


def test_a_second_ctrl_c_interrupts_at_once():
  with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.should_stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    stop.should_stop(2)


def test_handlers_are_as_before_in_the_end():
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = [signal.getsignal(n) for n in numbers]
  with pytest.raises(RuntimeError, match="loop"), StopSignal():
    assert [signal.getsignal(n) for n in numbers] != before
    raise RuntimeError("the loop failed")
  assert [signal.getsignal(n) for n in numbers] == before


def test_without_a_signal_it_is_never_due():
  with StopSignal() as stop:
    assert not any(stop.should_stop(i) for i in range(5))
