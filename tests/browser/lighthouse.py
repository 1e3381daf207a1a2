"""`python -m tests.browser.lighthouse FOLDER`: Lighthouse on the pages that people see first, as a phone and at a desk.

It installs Lighthouse from npm into FOLDER, prints the scores and what costs one, and fails below `LEAST`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.take_screenshots import running_app
from tests.support.browser import LAUNCH_OPTIONS, find_system_chromium
from tests.support.oidc_provider import NODE, NPM
from tests.support.sandbox import Sandbox

LIGHTHOUSE = "lighthouse@13.5.0"
LEAST = {"performance": 95, "accessibility": 100, "best-practices": 100}
PAGES = ("/", "/signin", "/accounts")  # the last one signed in
TIMEOUT_SECONDS = 180


def install(folder: Path) -> Path:
    """Install Lighthouse from npm unless it is there; return its script."""
    script = folder / "node_modules" / "lighthouse" / "cli" / "index.js"
    if not script.exists():
        print("Installing Lighthouse …", flush=True)
        command = [NODE, NPM, "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", LIGHTHOUSE]
        subprocess.run([str(one) for one in command], check=True, stdout=subprocess.DEVNULL)
    return script


def look_at(script: Path, url: str, cookie: str, is_desk: bool) -> dict[str, Any]:
    """Return Lighthouse's report on one page."""
    options = [
        "--quiet",
        "--output=json",
        f"--only-categories={','.join(LEAST)}",
        f"--extra-headers={json.dumps({'Cookie': cookie} if cookie else {})}",
        f"--chrome-flags=--headless --no-sandbox {' '.join(LAUNCH_OPTIONS)}",
        *(["--preset=desktop"] if is_desk else []),
    ]
    environ = {**os.environ, "CHROME_PATH": find_system_chromium() or ""}
    done = subprocess.run(
        [str(NODE), str(script), url, *options],
        env=environ,
        check=True,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_SECONDS,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def show(name: str, report: dict[str, Any]) -> bool:
    """Print the scores of one page and what costs one; return whether they suffice."""
    scores = {category: round(found["score"] * 100) for category, found in report["categories"].items()}
    print(f"{name}: {', '.join(f'{category} {score}' for category, score in scores.items())}", flush=True)
    weighty = {one["id"] for found in report["categories"].values() for one in found["auditRefs"] if one["weight"]}
    for audit in (report["audits"][one] for one in sorted(weighty)):
        if audit["score"] is not None and audit["score"] < 0.9:
            print(f"  {audit['id']}: {audit['title']} {audit.get('displayValue', '')}")
    return all(scores[category] >= least for category, least in LEAST.items())


def main() -> None:
    """Look at all pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["FLASK_SKIP_DOTENV"] = "1"
    script = install(folder)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        Sandbox.start(Path(name) / "sandbox.db") as sandbox,
        running_app(sandbox, Path(name)) as (settings, _, session_id),
    ):
        suffices = [
            show(
                f"{path} {'at a desk' if is_desk else 'on a phone'}",
                look_at(
                    script, settings.public_url + path, f"admin={session_id}" if path == "/accounts" else "", is_desk
                ),
            )
            for path in PAGES
            for is_desk in (False, True)
        ]
    if not all(suffices):
        sys.exit(f"Lighthouse wants at least {', '.join(f'{name} {least}' for name, least in LEAST.items())}.")


if __name__ == "__main__":
    main()
