"""Work on files that are in place: a digest read back, or an archive unpacked; one thread each."""

from __future__ import annotations

import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.errors import CachdError, Cancelled, InternalError
from cachd.fetch.answer import make_wanted
from cachd.fetch.questions import ask_facts, ask_part
from cachd.fetch.readback import digest_file
from cachd.model import ManifestFile, UnpackRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.fetch.answer import Wanted
    from cachd.fetch.reader import Reader
    from cachd.fetch.work import WorkerJob


class LocalTask:
    """``message``: task, job, kind, and what that kind needs. Kinds: "digest" of a file that may
    still grow, "sums" of files that are in place, "facts" and "parts" that HEAD tells, "unpack",
    "arrange"."""

    def __init__(
        self,
        message: dict[str, Any],
        job: WorkerJob,
        limits: dict[str, Any],
        send: Callable[..., None],
        ended: Callable[[int], None],
        make_reader: Callable[[WorkerJob], Reader],
    ) -> None:
        self.number = int(message["task"])
        self.job_id = job.id
        self._message = message
        self._job = job
        self._limits = limits
        self._send = send
        self._ended = ended
        self._make_reader = make_reader
        self._kinds: dict[str, Callable[[], dict[str, Any]]] = {
            "digest": self._digest,
            "sums": self._sums,
            "facts": self._facts,
            "parts": self._parts,
            "unpack": self._unpack,
            "arrange": self._arrange,
        }
        self._condition = threading.Condition()
        self._upto = int(message.get("upto", 0))
        self._is_cancelled = False
        self._thread = threading.Thread(
            target=self._run, name=f"task-{message['kind']}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        with self._condition:
            self._is_cancelled = True
            self._condition.notify_all()

    def join(self, patience: float) -> bool:
        self._thread.join(patience)
        return not self._thread.is_alive()

    def set_upto(self, upto: int) -> None:
        with self._condition:
            self._upto = upto
            self._condition.notify_all()

    def _run(self) -> None:
        answer: dict[str, Any] = {"is": "task", "task": self.number, "error": None}
        try:
            answer.update(self._kinds[self._message["kind"]]())
        except Cancelled:
            return
        except CachdError as error:
            answer["error"] = error.to_wire()
        except Exception as error:
            traceback.print_exc()
            name = type(error).__name__
            answer["error"] = InternalError(f"a defect in the mover: {name}").to_wire()
        finally:
            self._ended(self.number)
        self._send(answer)

    def _cancelled(self) -> bool:
        return self._is_cancelled or self._job.is_cancelled

    def _wait_upto(self, offset: int) -> int:
        with self._condition:
            self._condition.wait_for(lambda: self._is_cancelled or self._upto > offset)
            if self._is_cancelled:
                raise Cancelled("nobody wants this fetch any more")
            return self._upto

    def _digest(self) -> dict[str, Any]:
        message = self._message
        values = digest_file(
            self._job.tree,
            message["path"],
            message["size"],
            message["algorithms"],
            self._wait_upto,
            self._cancelled,
            parts=message["parts"],
        )
        return {"values": values}

    def _sums(self) -> dict[str, Any]:
        return {"values": [self._sum(*file) for file in self._message["files"]]}

    def _sum(self, path: str, size: int, algorithms: list[str]) -> list[str]:
        return digest_file(self._job.tree, path, size, algorithms, lambda _: size, self._cancelled)

    def _facts(self) -> dict[str, Any]:
        facts = ask_facts(self._make_reader(self._job), self._wanted())
        return {"facts": facts.to_wire() if facts else None}

    def _parts(self) -> dict[str, Any]:
        """The sizes of the first ``count`` parts of the object; none if one isn't told."""
        reader, wanted, sizes = self._make_reader(self._job), self._wanted(), []
        for number in range(1, self._message["count"] + 1):
            size = None if self._cancelled() else ask_part(reader, wanted, number)
            if size is None:
                return {"sizes": []}
            sizes.append(size)
        return {"sizes": sizes}

    def _wanted(self) -> Wanted:
        return make_wanted(self._message, is_s3=self._job.is_s3)

    def _unpack(self) -> dict[str, Any]:
        from cachd.fetch.unpack import UnpackLimits, unpack_archive  # noqa: PLC0415  (few models need it)

        message = self._message
        files = unpack_archive(
            Path(message["archive"]),
            Path(message["tree"]),
            message["format"],
            message["name"],
            UnpackLimits(**self._limits),
            self._job.grow,
            lambda count: self._send({"is": "unpacked", "job": self.job_id, "bytes": count}),
            self._cancelled,
        )
        return {"files": [asdict(file) for file in files]}

    def _arrange(self) -> dict[str, Any]:
        from cachd.fetch.arrange import arrange  # noqa: PLC0415  (few models need it)
        from cachd.fetch.unpack import UnpackLimits  # noqa: PLC0415

        message = self._message
        files = arrange(
            Path(message["archive"]),
            Path(message["tree"]),
            [UnpackRule(**rule) for rule in message["rules"]],
            [ManifestFile.from_json(file) for file in message["files"]],
            UnpackLimits(**self._limits),
            self._job.grow,
            lambda count: self._send({"is": "unpacked", "job": self.job_id, "bytes": count}),
            self._cancelled,
        )
        return {"files": [asdict(file) for file in files]}
