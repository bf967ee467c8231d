"""Making the next item in a thread while one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """The items in their order, each made in a thread while the one before it is used.

    It pays where the making leaves Python's lock alone, as reading and tokenizing do.
    """
    source = iter(items)
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        item = thread.submit(next, source, nothing).result()
        while item is not nothing:
            following = thread.submit(next, source, nothing)
            yield item  # type: ignore[misc]
            item = following.result()
