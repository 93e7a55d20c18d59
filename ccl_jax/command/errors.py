"""Errors that the user can fix, in one line."""

import errno

from ccl_jax.storage import bucket_errors

# Errors of the system that another try does not mend: of permissions, names,
# and disks that are full or read-only.
_LASTING = (
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
  errno.EFBIG, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
  errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


class UserError(SystemExit):
  """Error that the user can fix; it ends the program with code 2.

  Launchers start a program again after any code but this one.
  """

  CODE = 2

  def __init__(self, message: str, code: int = CODE):
    super().__init__(f"error: {message}")
    self.code = code


def as_user_error(error: Exception) -> UserError | None:
  """Returns the one-line error for an error, or None if it has none."""
  if text := bucket_errors.describe(error):
    return UserError(text, 1 if bucket_errors.is_transient(error) else 2)
  if isinstance(error, ValueError | FloatingPointError):
    return UserError(str(error))
  if isinstance(error, OSError) and error.errno in _LASTING:
    place = "" if error.filename is None else f"'{error.filename}': "
    return UserError(f"{place}{error.strerror}")
  return None
