"""The claim on a run folder: one process owns it, and it changes only once training begins."""

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

LOOK_SECONDS = 0.2  # within which a program that looks whether a training runs (`is_training`) is done


class Claim:
    """A lock on a run folder, held within a `with` block; one folder holds one run.

    A new run writes `config.yaml` on entry. A run that fails before `start` undoes its changes: a
    new one removes the files and folders that it made, and a resumed one keeps its old
    `config.yaml`.

    Args:
        config: the settings of the run; `run_dir` names the folder.
        owner: whether this is rank 0; on the other ranks a claim does nothing.
    """

    LOGS = ("tensorboard", "csv", "wandb", "trackers.json")  # of loggers, which make them before `start`

    def __init__(self, config: Config, owner: bool) -> None:
        self.config, self.owner, self.started = config, owner, False
        self.run_dir = Path(config.run_dir)
        self.lock = FileLock(self.run_dir / ".lock", timeout=LOOK_SECONDS)
        self.made: list[Path] = []  # by this process, in the order of their removal
        # Descriptor of the lock file; while it is open, no other file gets the same inode number.
        self.handle: int | None = None

    def __enter__(self) -> "Claim":
        """Locks the folder; for a new run creates it and writes `config.yaml`.

        Raises:
            UserError: when another process trains there, an earlier run is there, or the folder
                cannot be written.
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
                    self.made = []  # another process claimed the folder first
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
        """Releases the lock; removes what the claim made where `start` was never called."""
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
        """Marks the folder as a run in progress, once.

        A resumed run writes its new settings. The marks of an earlier end (curves.png, the recorded
        failure) are removed.
        """
        if self.owner and not self.started:
            self.started = True
            if self.config.resume:
                save_config(self.config, self.run_dir / "config.yaml")
                started_last(self.run_dir)
            for name in ("curves.png", FAILURE):
                (self.run_dir / name).unlink(missing_ok=True)

    def verify(self) -> None:
        """Checks that the folder still belongs to this run.

        Raises:
            MachineError: when the folder was deleted, or replaced by another run's.
        """
        if self.owner and not self._is_own():
            raise MachineError(f"{self.run_dir} was deleted or replaced while this run wrote there: it stops")


class Ownership(Callback):
    """The callback that starts the claim at the first step, and verifies it before each write."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the claim, and records the environment.

        The checkpoint is loaded by now, so every check has passed.
        """
        self.claim.verify()
        self.claim.start()
        if self.claim.owner:
            record_environment(self.claim.run_dir, trainer.global_step, device_name(pl_module.device.type))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Verifies the claim before a metrics row is written."""
        self.claim.verify()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Verifies the claim before a validation writes its row, its sample and its checkpoint."""
        self.claim.verify()
