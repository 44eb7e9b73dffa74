"""`nas.kernels.tools.slot` on four operations, of whose kernels one asks for too much memory, one ends its process and
one never ends. Run by test_kernel_slot.py."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from importlib import import_module

from triton.runtime.errors import OutOfResources

from nas.kernels.tools import slot


def too_large(*_, **__):
    raise OutOfResources(131072, 101376, "shared memory")


def ends(*_, **__):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(*_, **__):
    time.sleep(1e6)


FAULTS = {"involution": too_large, "self_calibrated_gate": ends, "gnconv_recursion": hangs}
SOUND = "gnconv_gate"


def faulty(make, fault):
    def work(*arguments):
        made = make(*arguments)
        return dataclasses.replace(made, forms={**made.forms, "triton": fault})

    return work


if __name__ == "__main__":
    for name in set(slot.OPERATIONS) - {*FAULTS, SOUND}:
        del slot.OPERATIONS[name]
    for name, fault in FAULTS.items():
        module = import_module(f"nas.kernels.{name}.work")
        vars(module)["work"] = faulty(module.work, fault)
    limit = float(os.environ["LIMIT"])
    slot.main((sys.executable, __file__), dict.fromkeys(slot.LIMITS, limit) | {"compile": 10 * limit})
