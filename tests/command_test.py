"""What errors look like is in tests/train_test.py."""

from absl import flags

from ccl_jax import command


def test_flags_may_be_spelled_with_dashes(monkeypatch):
  known = flags.FlagValues()
  flags.DEFINE_bool("attention_maps", False, "", flag_values=known)
  flags.DEFINE_string("shard-size", "", "", flag_values=known)
  monkeypatch.setattr(flags, "FLAGS", known)
  given = {
    "--attention-maps": "--attention_maps",
    "--noattention-maps": "--noattention_maps",
    "--attention-maps=a-b": "--attention_maps=a-b",
    "--shard-size=1GB": "--shard-size=1GB",
    "--attention-mapz": "--attention-mapz",
    "to-torch": "to-torch",
  }
  assert [command._spelled(x) for x in given] == list(given.values())
