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
    """The same path with another name in the place of the first part that is not there, where its
    directory has one of almost that name."""
    missing = [path, *path.parents]
    at = max(i for i, each in enumerate(missing) if not each.exists())
    wanted, rest = missing[at], path.relative_to(missing[at])
    try:
        beside = sorted(each.name for each in wanted.parent.iterdir())
    except OSError:
        return None
    there = {name: wanted.parent / name / rest for name in beside}
    there = {name: place for name, place in there.items() if place.exists()}
    near = difflib.get_close_matches(wanted.name, there, n=1, cutoff=0.7)
    return f"did you mean {str(there[near[0]])!r}?" if near else None
