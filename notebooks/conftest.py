"""`pytest --nbmake notebooks/` runs every notebook with a fast measurement."""

import os

os.environ.setdefault('POLICYOPT_FAST', '1')

# The sources are the same cells once more.
collect_ignore_glob = ['*.py']
