"""What to tell of a path that is not there: where it was looked up, what may have been meant."""

import difflib
from pathlib import Path


def looked_up(path: str | Path) -> str:
    """A path that is not there, with the directory that it was looked up from if it is relative."""
    if Path(path).is_absolute():
        return f"{path}, which does not exist"
    return f"{path}, which does not exist in {Path.cwd()}"


def suggestion(path: str | Path) -> str | None:
    """Of a path that is not there, one that is: in a directory above the current one, or of almost
    this name. None where there is neither, and of a path that is there."""
    path = Path(path)
    if path.exists():
        return None
    if not path.is_absolute():
        above = (parent / path for parent in Path.cwd().parents)
        found = next((each for each in above if each.exists()), None)
        if found is not None:
            return f"did you mean {str(found)!r}?"
    return _near_name(path)


def _near_name(path: Path) -> str | None:
    """The same path with another last part, where the directory has one of almost that name."""
    try:
        beside = [each.name for each in path.parent.iterdir()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"did you mean {str(path.with_name(near[0]))!r}?" if near else None
