"""Are there known vulnerabilities in what the images install? `make check` asks, with pip-audit.

Exit status: 1 with a line for each finding. Where the advisory service cannot be reached nothing is known, which is
one line and no failure: a check must not depend on the network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# The worker's lock holds all of the API's too; a test sees to that.
LOCK = Path(__file__).with_name("worker.lock")
SECONDS = 300


def main(arguments: list[str]) -> int:
    """`arguments` go on to pip-audit, such as --vulnerability-service osv."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", *arguments]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        packages = json.loads(said.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        packages = []
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        print("pip-audit: the advisory service cannot be reached, so nothing was audited")
        return 0
    found = [(package, each) for package in known for each in package["vulns"]]
    for package, each in found:
        fixed = ", ".join(each["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    unknown = len(packages) - len(known)
    print(f"pip-audit: {len(known)} packages audited, {len(found)} findings, {unknown} unknown to the service")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
