"""`python -m deq_nc` is `deq-nc`."""

import sys

from deq_nc.cli import main

sys.exit(main())
