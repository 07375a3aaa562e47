"""Lock files in; known vulnerabilities of their packages out: status 0 none, 1 some, 3 when nobody could be asked."""

from __future__ import annotations

import json
import subprocess
import sys


def verdict(report: str, complaint: str) -> tuple[int, str]:
    """Exit status and sentence for what pip-audit wrote: JSON, and its last word where there is none.

    pip-audit itself ends with 0 when the database answers for no package at all: it calls them skipped.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except ValueError:
        return 3, f"could not reach the vulnerability database; nothing was checked ({complaint})"
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", ())]
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    if found:
        return 1, "known vulnerabilities:\n  " + "\n  ".join(found)
    if len(skipped) == len(packages):
        return 3, "could not reach the vulnerability database; nothing was checked (no answer for any package)"
    if skipped:
        return 3, f"{len(packages) - len(skipped)} packages have no known vulnerability; no answer for {skipped}"
    return 0, f"{len(packages)} packages have no known vulnerability"


if __name__ == "__main__":
    locks = [word for path in sys.argv[1:] for word in ("-r", path)]
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json", *locks]
    ran = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False)
    status, sentence = verdict(ran.stdout, (ran.stderr.splitlines() or [""])[-1])
    print(sentence)
    sys.exit(status)
