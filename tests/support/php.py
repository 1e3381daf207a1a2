"""PHP, for the examples in docs/jobs.md: `make test` runs this first, which installs it where that is allowed."""

import shutil

from tests.support.packages import install_by_apt

if __name__ == "__main__" and not shutil.which("php"):
    install_by_apt("php-cli", "php-curl")
