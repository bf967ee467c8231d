"""`python -m jaxssl` is the command line."""

import sys

from jaxssl.cli import main

sys.exit(main())
