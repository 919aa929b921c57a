"""What the first cell of a notebook runs on Colab and Kaggle, once `klepon` is cloned: it makes that folder usable.

Where Google Drive is mounted, the project moves there, so that a run outlives its runtime.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

clone, drive = Path("klepon").resolve(), Path("/content/drive/MyDrive")
home = drive / "klepon" if drive.is_dir() else clone
if not home.is_dir():
    # A copy that was cut off must not pass for a whole one.
    partial = home.with_name("klepon.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(clone, partial).rename(home)
subprocess.run(["make", "-C", str(home), "hosted", f"PYTHON={sys.executable}"], check=True)
os.chdir(home / "notebooks")
sys.path.insert(0, str(home))
