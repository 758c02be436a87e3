"""Views at start: those that are whole are taken up, the others undone. Blocking."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.errors import ViewUnavailable
from cachd.store import viewfiles
from cachd.store.fsio import measure_foreign
from cachd.store.rows import Row
from cachd.store.types import NOBODY
from cachd.store.viewrecords import read_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cachd.store.layout import Layout
    from cachd.store.viewrecords import ViewRecord

log = logging.getLogger("cachd.store")


@dataclass(frozen=True, slots=True)
class FoundView:
    """``row`` is of the pod's whole directory, the same for all its views; ``linked`` are the bytes
    by inode of its files with more than one name."""

    record: ViewRecord
    place: viewfiles.Place
    row: Row
    linked: Mapping[int, int]


def scan_views(layout: Layout) -> list[FoundView]:
    """What is whole. Raises OSError."""
    places: dict[str, list[tuple[ViewRecord, viewfiles.Place]]] = {}
    for record in _records(layout):
        place = _look(layout, record)
        if place is not None:
            places.setdefault(record.pod, []).append((record, place))
    found = []
    for pod, views in places.items():
        held = measure_foreign(layout.views / pod)
        payers = [view.namespace for view, _ in views if view.namespace is not None]
        row = Row(
            key="",
            revision="",
            info=replace(NOBODY, namespace=payers[0] if payers else None),
            state="view",
            place=pod,
            allocated=held.allocated,
            inodes=held.inodes,
        )
        found += [FoundView(record, place, row, held.linked) for record, place in views]
    return found


def _records(layout: Layout) -> Iterator[ViewRecord]:
    for path in list(layout.view_records.iterdir()):
        try:
            yield read_record(path)
        except (OSError, ValueError) as error:
            log.warning("a view's record is dropped: %s", error)
            path.unlink(missing_ok=True)


def _look(layout: Layout, record: ViewRecord) -> viewfiles.Place | None:
    """The directory of a whole view; one that was only begun is emptied, for a pod may have it
    mounted already."""
    path = layout.view_records / record.file_name
    try:
        fd = viewfiles.find_place(layout, record.pod, record.name)
        try:
            # Killed while it went, it may have been made anew by kubelet, with nothing in it.
            if record.is_complete and not (record.files and viewfiles.is_empty(fd)):
                return viewfiles.look(fd)
            viewfiles.clear(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        log.info("the view %s/%s has gone", record.pod, record.name)
    except (OSError, RecursionError, ViewUnavailable) as error:
        log.error("the view %s/%s can't be taken up: %s", record.pod, record.name, error)
        return None
    path.unlink(missing_ok=True)
    return None
