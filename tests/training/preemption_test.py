"""Signals in one process; tests/faults_test.py has several."""

import os
import signal

import pytest

from ccl_jax.training.preemption import stop_signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish(number):
  done = []
  with stop_signal() as should_stop:
    for i in range(1, 10):
      if i == 3:
        os.kill(os.getpid(), number)
      done.append(i)
      if should_stop(i):
        break
  assert done == [1, 2, 3]


def test_a_second_ctrl_c_interrupts_at_once():
  with pytest.raises(KeyboardInterrupt), stop_signal() as should_stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert should_stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    should_stop(2)


def test_handlers_are_as_before_in_the_end():
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = [signal.getsignal(n) for n in numbers]
  with pytest.raises(RuntimeError, match="loop"), stop_signal():
    assert [signal.getsignal(n) for n in numbers] != before
    raise RuntimeError("the loop failed")
  assert [signal.getsignal(n) for n in numbers] == before


def test_without_a_signal_it_is_never_due():
  with stop_signal() as should_stop:
    assert not any(should_stop(i) for i in range(5))
