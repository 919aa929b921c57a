"""How glibc hands out memory in a process that trains, scores or answers."""

import os
import sys

#: For GLIBC_TUNABLES. By default a large tensor is mapped anew each time, and the system clears its pages at the first
#: touch. Kept in the process, in huge pages where the system allows, they are cleared once: trained tokens a second of
#: SmolLM2-135M on two cores rose from 122 to 179 (one run each, one after the other).
KEPT_PAGES = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"


def keep_pages() -> None:
    """Begin this process again with `KEPT_PAGES`, unless it has settings of its own: glibc reads them at the start."""
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = KEPT_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
