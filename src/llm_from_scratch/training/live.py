"""callbacks=live: a page of the run while it trains, by a server that ends with the training.

The server is a process of its own, `llm-from-scratch serve RUN --follow`, on this machine's
loopback address. It reads the run folder alone, so that the training's numbers and files are the
same with and without it. It runs on the CPU with one thread, yields the processor and the memory to
the training, and ends when its standard input does: at the end of this process, however that comes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.machine import is_loopback

log = logging.getLogger(__name__)
NICENESS = 10  # of the server, once it listens
FIRST_TO_GO = 1000  # Linux: the server ends first where memory runs out
LIBRARIES = ("fastapi", "pydantic", "uvicorn")


class Live(Callback):
    """A server of the run's curves, samples and best model, at an address that a line tells.

    A server that does not start, or ends early, costs a warning and not the training.

    Args:
        host: an address of this machine alone.
        port: 0: a free one.

    Raises:
        UserError: when other machines can reach the host, or there is no such port.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        if not isinstance(host, str) or not is_loopback(host):
            raise UserError(
                f"host={host}: other machines can reach it: use 127.0.0.1, and ssh -L to look from elsewhere"
            )
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65536:
            raise UserError(f"port={port}: must be from 0 to 65535; 0 takes a free one")
        self.host, self.port = host, port
        self.process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the server; rank 0 alone."""
        if trainer.is_global_zero:
            self.start(Path(trainer.default_root_dir))

    def start(self, run: Path) -> None:
        """Starts the server of a run folder, and a thread that tells its address."""
        try:
            self.process = subprocess.Popen(
                self._command(run),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                **_apart(),
            )
        except OSError as error:
            log.warning("callbacks.live: its server does not start (%s); the training goes on", error.strerror or error)
            return
        threading.Thread(target=self._listen, args=(self.process,), name="live", daemon=True).start()

    def _command(self, run: Path) -> list[str]:
        limits = ("--device", "cpu", "--slots", "4", "--grace", "5")
        address = ("--host", self.host, "--port", str(self.port))
        serve = ("serve", str(run.absolute()), "--follow", "--until-eof")
        return [sys.executable, "-m", "llm_from_scratch", *serve, *address, *limits]

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Logs the address of the server, or that there is none."""
        assert process.stdout
        address, last = "", ""
        for line in process.stdout:  # to its end, so that the server can write
            text = line.decode(errors="replace").strip()
            if not address and text.startswith("http://"):
                address = text
                _yield_to_training(process.pid)
                if not self.closed:
                    log.info("live: %s shows this run in a browser until it ends", address)
            elif not address:
                last = text or last
        if not self.closed:
            why = f": {last}" if last and not address else ""
            log.warning("callbacks.live: its server has ended%s; the training goes on", why[:300])
        process.wait()

    def close(self) -> None:
        """Lets the server end, which shows the run's last state first; does not wait for it."""
        self.closed = True
        if self.process and self.process.stdin:
            with suppress(OSError):
                self.process.stdin.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Lets the server end with a training that fails or is stopped."""
        self.close()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Lets the server end with the training."""
        self.close()


def check_live(name: str, settings: dict[str, Any]) -> None:
    """Checks the settings of `Live`, under its name in `callbacks`, before a run starts.

    Raises:
        UserError: when a library is missing, or as `Live`.
    """
    if any(find_spec(name) is None for name in LIBRARIES):
        raise missing_extra(f"callbacks.{name} needs fastapi and uvicorn", "serve")
    given = {name: value for name, value in settings.items() if name != "_target_"}
    for key in given:
        if key not in ("host", "port"):
            raise UserError(f"callbacks.{name}.{key}: there is no such setting; it has host, port")
    try:
        Live(**given)
    except UserError as error:
        raise UserError(f"callbacks.{name}.{error}") from None


def _apart() -> dict[str, Any]:
    """Returns the arguments of a process that Ctrl-C in this one's terminal does not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    return {"process_group": 0}


def _yield_to_training(pid: int) -> None:
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PGRP, pid, NICENESS)  # a group of its own: all its threads
    with suppress(OSError):  # Linux alone
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(FIRST_TO_GO))
