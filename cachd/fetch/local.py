"""``file://``: a part of a file on this node, read by position."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cachd.errors import AccessError, CachdError, OriginChanged, OriginError
from cachd.fetch.claims import Facts
from cachd.fetch.reader import Sink
from cachd.sources.file import etag_of, path_of_url

if TYPE_CHECKING:
    from cachd.fetch.answer import Wanted
    from cachd.fetch.reader import Outcome
    from cachd.fetch.work import Work


class LocalReader:
    """Does for local files what ``Reader`` does for origins that are called."""

    def __init__(self, work: Work, buffer: bytearray) -> None:
        self._work = work
        self._view = memoryview(buffer)

    def fetch(self, wanted: Wanted, fd: int, outcome: Outcome) -> None:
        """Put the part into the file ``fd`` and fill ``outcome`` as it goes on.

        The file must be the very one that was planned, before and after: inode, size and time of
        change. So a link that is put in its place can't lead the daemon elsewhere. Raises
        OriginChanged, AccessError, OriginError.
        """
        # O_NONBLOCK: a FIFO put in its place doesn't hold the thread.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            source = os.open(path_of_url(wanted.url), flags)
        except OSError as error:
            raise _refusal(error, wanted) from None
        try:
            _check(source, wanted)
            outcome.facts = Facts(etag=wanted.validator.etag)
            sink = Sink(self._work, wanted, fd, outcome)
            try:
                self._copy(source, wanted, sink)
            except CachdError:
                sink.finish(is_end=False)
                raise
            _check(source, wanted)
            sink.finish(is_end=True)
        finally:
            os.close(source)

    def _copy(self, source: int, wanted: Wanted, sink: Sink) -> None:
        assert wanted.length is not None
        work, at, left = self._work, wanted.offset, wanted.length
        while left:
            step = min(left, len(self._view), work.bucket.chunk)
            try:
                count = os.preadv(source, [self._view[:step]], at)
            except OSError as error:
                raise _refusal(error, wanted) from None
            if not count:
                raise _changed(wanted)
            work.progress(count)
            work.bucket.take(count)
            sink.write(self._view[:count])
            at += count
            left -= count


def _check(source: int, wanted: Wanted) -> None:
    facts = os.fstat(source)
    if not stat.S_ISREG(facts.st_mode) or etag_of(facts) != wanted.validator.etag:
        raise _changed(wanted)


def _changed(wanted: Wanted) -> OriginChanged:
    return OriginChanged(f"{wanted.path} changed while it was read")


def _refusal(error: OSError, wanted: Wanted) -> CachdError:
    if isinstance(error, PermissionError):
        return AccessError(
            f"the daemon's user can't read {wanted.path}",
            hint="let it read what lies below sources.file.roots",
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _changed(wanted)
    return OriginError(f"{wanted.path} can't be read: {error.strerror}")
