"""Describes errors of buckets in one line, and tells which are transient.

gcsfs, and aiohttp and google.auth below it, have types of their own.
TensorStore raises ValueError for every error, also for a server that it could
not reach for a long time.
"""

import re
import urllib.parse

_LIBRARIES = ("aiohttp", "fsspec", "gcsfs", "google", "requests")
_REFUSED = (400, 401, 403, 404)  # codes of HTTP that another try gets too
# In errors of TensorStore.
_UNREACHED = re.compile(
  r"retry attempts failed|\b(?:UNAVAILABLE|DEADLINE_EXCEEDED)\b"
)


def describe(error: Exception) -> str | None:
  """Returns one line about an error of a bucket, None for any other."""
  text = _name_objects(str(error)) or type(error).__name__
  if isinstance(error, ImportError):
    return "gs:// paths need: pip install gcsfs" if "gcsfs" in text else None
  if isinstance(error, ValueError):
    is_of_bucket = _UNREACHED.search(text)
  elif isinstance(error, OSError) and not _is_of_library(error):
    if error.errno is not None:
      return None
    if isinstance(error, FileNotFoundError):
      return f"'{text}': no such file or object."
    is_of_bucket = _is_forbidden(error) or isinstance(error, TimeoutError)
  else:
    is_of_bucket = _is_of_library(error)
  if not is_of_bucket:
    return None
  if is_transient(error):
    return f"A bucket could not be reached: {text}. Start again to go on."
  return (
    f"A bucket refused a request: {text}. Check its name, and log in with"
    " gcloud auth application-default login, as somebody who may do this."
  )


def is_transient(error: Exception) -> bool:
  """Returns whether this error of a bucket may not occur at another start."""
  is_lasting = isinstance(
    error, FileNotFoundError | ImportError | PermissionError
  )
  is_lasting |= _is_forbidden(error)
  is_lasting |= type(error).__name__ == "DefaultCredentialsError"
  codes = (getattr(error, key, None) for key in ("code", "status"))
  return not is_lasting and not any(str(x) in map(str, _REFUSED) for x in codes)


def _is_of_library(error: Exception) -> bool:
  return type(error).__module__.partition(".")[0] in _LIBRARIES


def _is_forbidden(error: Exception) -> bool:
  return isinstance(error, OSError) and str(error).startswith("Forbidden: ")


def _name_objects(text: str) -> str:
  """Returns a text on one line, with gs:// paths for those of the API."""
  text = re.sub(r" \[tensorstore_spec=.*| \[source locations=.*", "", text)
  return re.sub(
    r"\bb/([^/\s]+)/o(?:/([^\s?]*))?",
    lambda match: f"gs://{match[1]}/{urllib.parse.unquote(match[2] or '')}",
    " ".join(text.split()),
  ).rstrip(".")
