import pytest

from tests.training import clocks
from tests.training.clocks import spend


def test_the_seconds_of_all_events_add_up_to_the_wall_time():
  clock, time = clocks.make()
  spend(clock, time, "setup", 2)
  time.seconds += 1
  for _ in range(3):
    spend(clock, time, "data", 1)
    spend(clock, time, "step", 4)
  seconds = clock.seconds()
  assert {k: v for k, v in seconds.items() if v} == {
    "setup": 2, "other": 1, "data": 3, "step": 12,
  }  # fmt: skip
  assert clock.shares()["step"] == 12 / 18
  assert sum(clock.shares().values()) == pytest.approx(1)


def test_an_inner_event_is_not_counted_twice():
  clock, time = clocks.make()
  with clock("step"):
    time.seconds += 1
    with clock("eval"):
      time.seconds += 2
      spend(clock, time, "checkpoint", 4)
    time.seconds += 8
    # What is open counts until now.
    assert clock.seconds()["step"] == 9
  found = clock.seconds()
  assert (found["step"], found["eval"], found["checkpoint"]) == (9, 2, 4)
  assert sum(found.values()) == time.seconds


def test_an_event_that_fails_is_closed():
  clock, time = clocks.make()
  with pytest.raises(RuntimeError, match="no batch"), clock("data"):
    time.seconds += 1
    raise RuntimeError("no batch")
  time.seconds += 1
  assert clock.seconds()["data"] == clock.seconds()["other"] == 1


def test_an_unknown_event_is_an_error():
  clock, _ = clocks.make()
  with pytest.raises(ValueError, match=r"'dta'.*data"), clock("dta"):
    pass


def test_the_summary_is_one_line_with_what_took_longest_first():
  clock, time = clocks.make()
  assert clock.summary() == "0.0 s, goodput 0.0%: "
  spend(clock, time, "compile", 1)
  spend(clock, time, "step", 3)
  assert clock.summary() == "4.0 s, goodput 75.0%: step 75.0%, compile 25.0%"
