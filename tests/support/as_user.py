"""The driver under another user id: as_user.py UID ARGUMENTS…

The interpreter may lie where that user cannot reach it, so everything is imported before root is given up.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash import driver
from tests.support import preloaded

_PR_SET_DUMPABLE = 4

if __name__ == "__main__":
    uid = int(sys.argv.pop(1))
    preloaded.everything()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Changing ids makes /proc/self root's; for a process that was started as that user it is not.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    sys.exit(driver.main(sys.argv[1:]))
