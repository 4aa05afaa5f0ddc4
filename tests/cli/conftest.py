"""The command's helpers live with the launch tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "launch"))
