"""What holds for every test."""

import os

# Python processes that tests start see the installed package, as the tests themselves do, not
# the source folder that they may stand in, which has no compiled kernels.
os.environ["PYTHONSAFEPATH"] = "1"
