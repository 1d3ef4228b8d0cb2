"""A training in two processes, which talk to each other on loopback; and none of them outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from children import PYTHON, script
from loopback import refused_port

__all__ = ["ACCELERATE", "ITSELF", "TALK", "TORCHRUN", "in_two"]

#: Two processes start slowly where many other things run: what has not ended by then hangs (seconds).
_HANGS = 900

#: The script is run alone, and starts the second process itself.
ITSELF: tuple[str, ...] = ()
TORCHRUN = ("torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", "--master-port={}")
#: What it calls several GPUs are several processes here: the trainer is told that there is none.
ACCELERATE = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--num_machines=1",
    "--mixed_precision=no",
    "--dynamo_backend=no",
    "--main_process_ip=127.0.0.1",
    "--main_process_port={}",
)
#: For one of the processes: writes down with whom it is connected.
TALK = (
    "import json, psutil; "
    "there = [c.raddr.ip for c in psutil.Process().net_connections() if c.raddr]; "
    "open('talk.json', 'w').write(json.dumps(there))"
)


#: As PyTorch asks for, before the process leaves; what is to be done at its exit is done. The interpreter itself is not
#: taken down: one of PyTorch's own threads that asks for it meanwhile ends the process by SIGABRT, now and then ("terminate
#: called without an active exception"), in a process without a session as well.
_GOODBYE = """
import atexit, os, sys, torch.distributed
torch.distributed.destroy_process_group()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
"""


def in_two(code: str, launcher: tuple[str, ...] = TORCHRUN) -> subprocess.CompletedProcess[str]:
    """The script in two processes, by what starts them, when all have ended."""
    code += _GOODBYE
    port = refused_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("ACCELERATE_USE_CPU", "true")
        words = [word.format(port) for word in launcher]
        command = [PYTHON, *(["-m", *words] if words else []), str(script(code))]
        # A group of their own, because whoever ends the launcher alone leaves its children behind.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    try:
        said, complained = process.communicate(timeout=_HANGS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)
