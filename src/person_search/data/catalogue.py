"""Opens datasets by name."""

from __future__ import annotations

from dataclasses import replace

from person_search.config import Config, DataConfig
from person_search.data.identity_checks import odd_identities, without_identities
from person_search.data.scene import Dataset, Split, SplitName
from person_search.registry import datasets, import_modules


def open_dataset(config: Config | DataConfig) -> Dataset:
    """The loader that ``config`` names, on the folder that it names. Raises UsageError for an unknown name.

    Of a whole config its section ``data`` counts.
    """
    settings = config.data if isinstance(config, Config) else config
    import_modules(settings.plugins)
    dataset: Dataset = datasets.get(settings.dataset)(settings.data_root, settings)
    return dataset


def open_split(dataset: Dataset, name: SplitName) -> Split:
    """One split of ``dataset``, without the identities that ``unlabelled_ids`` names, and with what is odd about those
    it has among its notes. Raises DataError, and UsageError if there is no such split.
    """
    split = dataset.split(name)
    nobody = dataset.config.unlabelled_ids
    if nobody and name == "test" and dataset.fixed_queries:
        fixed = f"'{split.dataset} test': its queries are a published list: `unlabelled_ids` changes nothing in them"
        split = replace(split, notes=(*split.notes, fixed))
    else:
        split = without_identities(split, nobody)
    return replace(split, notes=(*split.notes, *odd_identities(split)))


def notes_of(dataset: Dataset, *splits: Split) -> list[str]:
    """What the files of ``dataset`` hold and ``splits`` do not use, one line each, every line once."""
    return list(dict.fromkeys([*dataset.notes(), *(line for split in splits for line in split.notes)]))
