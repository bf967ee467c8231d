"""A split of a data set of the Hugging Face hub."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from jaxssl.core.errors import UserError, did_you_mean


class Keys(NamedTuple):
    """Which of a row's keys hold a document's text, its own id, its group and its marked spans;
    None for no key."""

    text: str = "text"
    id: str | None = None
    group: str | None = None
    spans: str | None = None


class HubRows(NamedTuple):
    """The rows of a split of a data set; for the fields see `sources.Hub`."""

    dataset: str
    subset: str | None
    split: str
    revision: str | None

    def check(self, keys: Keys) -> None:
        """Reads one row, so that mistakes show before a long run."""
        import datasets

        revision = "" if self.revision is None else f", revision {self.revision}"
        where = f"source.dataset={self.dataset}, split {self.split}{revision}"
        try:
            stream = datasets.load_dataset(
                self.dataset,
                name=self.subset,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
            row: dict[str, Any] | None = next(iter(stream), None)
        except Exception as error:  # `datasets` raises whatever its loaders raise
            raise UserError(
                "a hub data set cannot be read",
                where=where,
                expected="a data set that exists and can be reached",
                got=f"{type(error).__name__}: {error}",
                fix="check name, config, split and revision; without a network, use files",
            ) from error
        if row is None:
            raise UserError("the corpus is empty", where=where, expected="rows", got="none")
        for field, column in keys._asdict().items():
            if column is not None and column not in row:
                raise UserError(
                    "the data set has no such column",
                    where=f"source.{field}_key",
                    expected=" or ".join(sorted(row)),
                    got=column,
                    fix=did_you_mean(column, row),
                )

    def commit(self) -> str | None:
        """The commit that the revision stands for now, asked of the hub; None for a folder, or if
        the hub cannot be asked."""
        if Path(self.dataset).exists():
            return None
        from huggingface_hub import HfApi

        try:
            info = HfApi().dataset_info(
                self.dataset, revision=self.revision, expand=["sha"], timeout=30
            )
            return info.sha
        except Exception as error:  # whatever its HTTP library raises; reading may still work
            cause = f"{type(error).__name__}: {error}"[:200]
            print(f"{self.dataset}: its commit is not recorded ({cause})", file=sys.stderr)
            return None
