"""Where Orbax writes the arrays of a step, by a path that it reads right.

Orbax finds what processes wrote with glob patterns that begin with the path, unescaped. Where the
path holds `[`, it finds nothing, warns, and leaves the arrays unreadable; where it holds `*` or
`?`, it finds what other runs wrote, too. Such a directory is given to it by a link with a plain
name, in the folder for temporary files.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path

import tensorstore

from jaxssl.core.errors import UserError

STATE = "state"
MAGIC = re.compile(r"[*?\[]")
"""What has a meaning of its own in a glob pattern."""


def state_path(step: Path) -> Path:
    """The arrays of a step's directory, as Orbax may be given it.

    Raises:
      UserError: no link can be made.
    """
    step = step.resolve()  # tensorstore takes no path with ..
    return _plain(step.parent) / step.name / STATE  # one link for a run


def check_written(step: Path, count: int) -> None:
    """Looks whether restoring finds so many arrays in a step's directory.

    Raises:
      OSError: it does not.
    """
    base = {"driver": "file", "path": f"{step.resolve() / STATE}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    found = sum(key.endswith(b"/.zarray") for key in store.list().result())
    if found != count:
        raise OSError(f"{found} arrays can be read back of {count} that were written")


def _plain(directory: Path) -> Path:
    if not MAGIC.search(str(directory)):
        return directory
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()
    link = Path(tempfile.gettempdir()).absolute() / f"jaxssl-{os.getuid()}-{digest[:32]}"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(directory)
    magic = MAGIC.search(str(link))
    if magic or not link.is_symlink() or os.readlink(link) != str(directory):
        raise UserError(
            "the folder for temporary files cannot hold a link to a path with [, * or ?",
            where=directory,
            expected=f"a link at {link}",
            got=f"a path with {magic[0]}" if magic else "something else at that place",
            fix="set TMPDIR to a folder of your own, or take these characters out of the path",
        )
    return link
