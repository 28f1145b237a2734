"""The models of runs that are followed: each is taken up once it is there, and each better one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from llm_from_scratch.errors import FAILURES, UserError, first_line
from llm_from_scratch.serve.engine import Batch
from llm_from_scratch.serve.service import Served, Service
from llm_from_scratch.weights import model_folder

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
Version = tuple[int, int, int]


def model_version(run: Path) -> Version | None:
    """Returns numbers that change with the model of a run; None where it has none."""
    folder = model_folder(run)
    try:
        settings = (folder / "config.json").stat()
        return folder.stat().st_ino, settings.st_ino, settings.st_mtime_ns
    except OSError:
        return None


class Update:
    """The model of one run, as it becomes better.

    Args:
        service: serves the model.
        name: of the model.
        run: the run folder.
        version: of the model that is served already; None: there is none.
        load: loads the model of the run.
    """

    def __init__(
        self, service: Service, name: str, run: Path, version: Version | None, load: Callable[[], tuple[Served, Batch]]
    ) -> None:
        self.service, self.name, self.run, self.version, self.load = service, name, run, version, load

    async def watch(self) -> None:
        """Looks for another model, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Takes up the run's model where it is another one than before."""
        version = await asyncio.to_thread(model_version, self.run)
        if version is None or version == self.version:
            return
        # Where a training replaces the model while it is read, the next look has another version.
        self.version = version
        try:
            served, batch = await asyncio.to_thread(self.load)
            self._check(served)
        except (UserError, *FAILURES) as error:
            log.warning("%s: its new model is not taken up: %s", self.name, first_line(error, 300))
            return
        except Exception:  # the server goes on with the model before
            log.exception("%s: its new model is not taken up", self.name)
            return
        self.service.take(served, batch)
        log.info("%s: the model of step %s is served from now on", self.name, served.loaded.step)

    def _check(self, served: Served) -> None:
        """Checks that a model is of the same run as the one before.

        Raises:
            UserError: when its tokenizer or its settings are others.
        """
        before = self.service.models.get(self.name)
        if before is None:
            return
        old, new = before.loaded, served.loaded
        if (old.tokenizer.fingerprint, old.model.config) != (new.tokenizer.fingerprint, new.model.config):
            raise UserError(f"{self.run} holds another run now: start the server again")
