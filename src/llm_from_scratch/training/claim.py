"""The run folder of a training: one owner, and no change before the first step is certain."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.config import FAILURE, Config
from llm_from_scratch.environment import record_environment
from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.machine import device_name
from llm_from_scratch.run import started_last
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.terminal import quote


class Claim:
    """A lock on a run folder, which holds one run; `config.yaml` is written first.

    Until `start`, a new run that fails leaves its folder as it was found, and a resumed one its
    `config.yaml`: a command that is refused changes nothing. Within `with`, the folder is locked.

    Args:
        config: of the run; `run_dir` names the folder.
        owner: whether this is the first of the processes of a run; the others leave the folder to
            it.
    """

    LOGS = ("tensorboard", "csv")  # made by loggers before a run has started

    def __init__(self, config: Config, owner: bool) -> None:
        self.config, self.owner, self.started = config, owner, False
        self.run_dir = Path(config.run_dir)
        self.lock = FileLock(self.run_dir / ".lock", timeout=0)
        self.made: list[Path] = []  # by this process, in the order in which they go again
        # Of the lock's file: open, so that no other file gets its number
        self.handle: int | None = None

    def __enter__(self) -> "Claim":
        """Locks the folder.

        Raises:
            UserError: when another process trains there, or an earlier run did.
        """
        if not self.owner:
            return self
        run_dir = self.run_dir
        try:
            missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
            names = ("config.yaml", *self.LOGS, ".lock")
            self.made = [run_dir / name for name in names if not (run_dir / name).exists()] + missing
            run_dir.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            self.handle = os.open(run_dir / ".lock", os.O_RDONLY)
            if not self.config.resume:
                if (run_dir / "config.yaml").exists():
                    self.made = []  # another process was faster
                    raise UserError(
                        f"run_dir={run_dir} holds a run already: choose another folder, or go on with"
                        f" {quote(f'resume={run_dir}')}"
                    )
                save_config(self.config, run_dir / "config.yaml")
                started_last(run_dir)
        except Timeout:
            self.made = []
            raise UserError(f"{run_dir} belongs to a training that is running now") from None
        except OSError as error:
            self._leave()
            raise UserError(f"run_dir={run_dir} cannot be written ({error.strerror}): choose another folder") from None
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Releases the folder, and removes what a refused start made."""
        if self.owner:
            self._leave()

    def _leave(self) -> None:
        if not self.started and (self.handle is None or self._is_own()):
            for path in self.made:
                with suppress(OSError):  # a folder that holds more than this start made stays
                    if path.name in self.LOGS and path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    elif path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink()
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None
        self.lock.release()

    def _is_own(self) -> bool:
        assert self.handle is not None
        try:
            return os.path.samestat(os.fstat(self.handle), (self.run_dir / ".lock").stat())
        except OSError:
            return False

    def start(self) -> None:
        """Makes the folder a run: a resumed one writes its new settings and is complete no more."""
        if self.owner and not self.started:
            self.started = True
            if self.config.resume:
                save_config(self.config, self.run_dir / "config.yaml")
                started_last(self.run_dir)
            for name in ("curves.png", FAILURE):
                (self.run_dir / name).unlink(missing_ok=True)

    def verify(self) -> None:
        """Checks that the folder is still this run's.

        Raises MachineError: it was deleted, also where another run has made it anew.
        """
        if self.owner and not self._is_own():
            raise MachineError(f"{self.run_dir} was deleted or replaced while this run wrote there: it stops")


class Ownership(Callback):
    """Starts the run folder with the first step, and checks it before each write."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Makes the folder a run: the checkpoint is loaded, and nothing can be refused any more."""
        self.claim.verify()
        self.claim.start()
        if self.claim.owner:
            record_environment(self.claim.run_dir, trainer.global_step, device_name(pl_module.device.type))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the folder before a row is written."""
        self.claim.verify()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Checks the folder before a validation writes its row, its sample and its checkpoint."""
        self.claim.verify()
