"""Print the README's shell command number N, as it stands there."""

import re
import sys
from pathlib import Path

readme = (Path(__file__).parent.parent / "README.md").read_text()
print(re.findall(r"^```sh\n(.*?)^```$", readme, re.M | re.S)[int(sys.argv[1])])
