"""Known vulnerabilities of all pinned packages: `make audit`.

pip-audit asks PyPI, or else OSV. Neither answers everywhere: mirrors of PyPI know no vulnerabilities, and say so by
"not found", which looks like "nothing known". So each service is first asked about a package that has known ones. Where
no service tells them, nothing was audited: that is said in so many words, and is no failure. A finding is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Known to be vulnerable (CVE-2019-10906 and more), and for ever.
CANARY = "jinja2==2.10"
#: Vulnerability -> why it does not matter here, and until when that was looked at.
ACCEPTED: dict[str, str] = {}
_TIMEOUT_S = 10
#: A service that hangs is one that does not answer.
_LONGEST_S = 300


@dataclass(frozen=True, kw_only=True)
class Service:
    """A source of known vulnerabilities, as pip-audit names it."""

    name: str
    url: str | None = None

    def ask(self, file: Path) -> dict[str, Any] | str:
        """Return pip-audit's answer about a file of pinned packages; a text why there is none."""
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", self.name, "--format", "json", "--progress-spinner", "off"]
        command += ["--timeout", str(_TIMEOUT_S), *(["--osv-url", self.url] if self.url else [])]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
            answer: dict[str, Any] = json.loads(ended.stdout)
        except subprocess.TimeoutExpired:
            return f"no answer within {_LONGEST_S} s"
        except ValueError:  # it ended with a traceback, whose last line tells the cause
            return (ended.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1][:300]
        return answer


def main() -> int:
    """Audit files; 1 where something is known of a package, 0 also where nobody could be asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("files", type=Path, nargs="+", help="pinned packages, NAME==VERSION")
    parser.add_argument("--osv-url", help="ask this OSV service, and no other")
    given = parser.parse_args()
    services = [Service(name="pypi"), Service(name="osv")]
    if given.osv_url:
        services = [Service(name="osv", url=given.osv_url)]
    for service in services:
        if (why := silent_because(service)) is None:
            return audit(service, given.files)
        print(f"not audited with {service.name}: {why}")
    print(f"not audited: no service tells known vulnerabilities here ({', '.join(str(f) for f in given.files)})")
    return 0


def silent_because(service: Service) -> str | None:
    """Return why a service cannot be believed when it knows of nothing; None where it can."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "canary.txt"
        file.write_text(f"{CANARY}\n")
        answer = service.ask(file)
    if isinstance(answer, str):
        return answer
    if any(package.get("vulns") for package in answer["dependencies"]):
        return None
    reasons = [package["skip_reason"] for package in answer["dependencies"] if "skip_reason" in package]
    return f"it knows nothing of {CANARY}, which has known vulnerabilities ({'; '.join(reasons) or 'no reason given'})"


def audit(service: Service, files: list[Path]) -> int:
    """Ask about all files, and tell; 1 where something is known, or a file could not be asked about."""
    found = unanswered = 0
    for file in files:
        answer = service.ask(file)
        if isinstance(answer, str):
            print(f"{file}: not audited: {answer}", file=sys.stderr)
            unanswered += 1
            continue
        skipped = [package["name"] for package in answer["dependencies"] if "skip_reason" in package]
        known = vulnerabilities(answer)
        for line, accepted in known:
            print(f"{file}: {line}" + (f" (accepted: {accepted})" if accepted else ""))
            found += not accepted
        if skipped:
            print(f"{file}: not audited, unknown to {service.name}: {', '.join(skipped)}")
        audited = len(answer["dependencies"]) - len(skipped)
        print(f"{file}: {audited} packages audited with {service.name}, {len(known)} known vulnerabilities")
    return 1 if found or unanswered else 0


def vulnerabilities(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return a line for each known vulnerability, and why it is accepted, if it is."""
    lines: list[tuple[str, str | None]] = []
    for package in answer["dependencies"]:
        for known in package.get("vulns", ()):
            names = [known["id"], *known.get("aliases", ())]
            accepted = next((ACCEPTED[name] for name in names if name in ACCEPTED), None)
            fixed = f"fixed in {', '.join(known['fix_versions'])}" if known.get("fix_versions") else "not fixed yet"
            lines.append((f"{package['name']} {package['version']}: {' '.join(names)}, {fixed}", accepted))
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
