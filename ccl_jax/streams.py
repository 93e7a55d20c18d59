"""Names of the streams, for processes that decode and never import jax."""

STREAMS = ("video", "audio")
