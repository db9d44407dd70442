"""Runs the steps of a composite action, or of one job, as GitHub's runner would, on this machine.

``run:`` steps are run with bash and the variables that GitHub sets; what they print is searched for
workflow commands by GitHub's rules; ``uses:`` steps are replaced by functions.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml
from github_expressions import condition, interpolate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    StandIn: TypeAlias = Callable[[dict[str, str]], Mapping[str, str]]
    """Takes the inputs of a ``uses:`` step, and gives its outputs."""

_SECOND = re.compile(r"::(?P<name>[\w-]+)(?: (?P<properties>.*?))?::(?P<data>.*)", re.DOTALL)
_FIRST = re.compile(r"##\[(?P<name>[\w-]+)(?: (?P<properties>[^\]]*))?\](?P<data>.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A workflow command that GitHub would have carried out."""

    name: str
    properties: dict[str, str]
    data: str


@dataclass(kw_only=True)
class Ran:
    """What came of a job or an action."""

    failed: bool = False
    log: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id, else by name: ``outcome`` and ``outputs``."""

    @property
    def commands(self) -> list[Command]:
        """All of them, in order."""
        return list(commands_in(self.log.splitlines()))

    def annotations(self, level: str) -> list[Command]:
        """Those of one level."""
        return [command for command in self.commands if command.name == level]


@dataclass(kw_only=True)
class Runner:
    """The machine that a job runs on."""

    workspace: Path
    """The checkout."""
    temp: Path
    github: dict[str, Any]
    """The context of that name."""
    uses: dict[str, StandIn]
    """By the name of the action, without its version."""
    environment: dict[str, str]
    """Beside GitHub's own variables."""

    def action(self, folder: Path, inputs: Mapping[str, str]) -> Ran:
        """A composite action, with ``inputs`` over its defaults."""
        said = yaml.safe_load((folder / "action.yml").read_text(encoding="utf-8"))
        unknown = set(inputs) - set(said["inputs"])
        assert not unknown, f"the action has no inputs {unknown}"
        defaults = {name: entry.get("default", "") for name, entry in said["inputs"].items()}
        contexts = self._contexts(inputs=defaults | dict(inputs))
        ran = self._run(said["runs"]["steps"], contexts, {"GITHUB_ACTION_PATH": str(folder)})
        ran.outputs = {
            name: interpolate(entry["value"], contexts) for name, entry in said["outputs"].items()
        }
        return ran

    def job(self, workflow: Path, name: str) -> Ran:
        """One job of a workflow."""
        said = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"][name]
        return self._run(said["steps"], self._contexts(), said.get("env", {}))

    def _contexts(self, **more: Any) -> dict[str, Any]:
        runner = {"os": "Linux", "temp": str(self.temp)}
        return {"github": self.github, "runner": runner, "steps": {}, **more}

    def _run(
        self, steps: Iterable[dict[str, Any]], contexts: dict[str, Any], more: Mapping[str, str]
    ) -> Ran:
        ran = Ran(steps=contexts["steps"])
        for number, step in enumerate(steps):
            key = step.get("id") or step.get("name") or step.get("uses") or str(number)
            state: dict[str, Any] = {"outcome": "skipped", "outputs": {}}
            contexts["steps"][key] = state
            if not condition(step.get("if"), contexts, failed=ran.failed):
                continue
            said = {k: interpolate(str(v), contexts) for k, v in step.get("with", {}).items()}
            environment = {k: interpolate(str(v), contexts) for k, v in step.get("env", {}).items()}
            if "uses" in step:
                name = step["uses"].partition("@")[0]
                state["outputs"] = dict(self.uses[name](said))
                worked = state["outputs"].pop("outcome", "success") == "success"
            else:
                assert "${{" not in step["run"], "an expression in a script can be injected into"
                worked = self._script(step, {**more, **environment}, ran, state["outputs"])
            state["outcome"] = "success" if worked else "failure"
            ran.failed |= not worked and not step.get("continue-on-error")
        return ran

    def _script(
        self, step: dict[str, Any], environment: dict[str, str], ran: Ran, outputs: dict[str, str]
    ) -> bool:
        assert step.get("shell", "bash") == "bash"
        files = {key: self.temp / f"_{key}" for key in ("output", "summary", "env", "path")}
        for file in files.values():
            file.write_text("")
        script = self.temp / "_script.sh"
        script.write_text(step["run"], encoding="utf-8")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.workspace,
            env={
                **self.environment,
                **environment,
                "GITHUB_ACTIONS": "true",
                "GITHUB_REPOSITORY": self.github["repository"],
                "GITHUB_WORKSPACE": str(self.workspace),
                "GITHUB_OUTPUT": str(files["output"]),
                "GITHUB_STEP_SUMMARY": str(files["summary"]),
                "GITHUB_ENV": str(files["env"]),
                "GITHUB_PATH": str(files["path"]),
                "RUNNER_TEMP": str(self.temp),
                "RUNNER_OS": "Linux",
                "PATH": self.environment.get("PATH", os.environ["PATH"]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert not files["env"].read_text(), "no step needs to set variables for others"
        assert not files["path"].read_text()
        assert files["summary"].stat().st_size <= 1 << 20, "GitHub drops a longer summary whole"
        ran.log += done.stdout
        ran.summary += files["summary"].read_text(encoding="utf-8")
        outputs |= read_outputs(files["output"].read_text(encoding="utf-8"))
        return done.returncode == 0


def read_outputs(text: str) -> dict[str, str]:
    """What a step wrote to ``GITHUB_OUTPUT``."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, _, delimiter = line.partition("<<")
        if delimiter and "=" not in name:
            value = []
            for inner in lines:
                if inner == delimiter:
                    break
                value.append(inner)
            else:
                raise AssertionError(f"the value of {name} never ends")
            found[name] = "\n".join(value)
        else:
            name, equals, plain = line.partition("=")
            assert equals, f"GitHub refuses the output {line!r}"
            found[name] = plain
    return found


def commands_in(lines: Iterable[str]) -> Iterable[Command]:
    """GitHub's reading of a log: ``::name key=value::data`` at the start of a line, and the older
    ``##[name]data`` anywhere in it; none of them between ``stop-commands`` and its token."""
    token = None
    for line in lines:
        found = _SECOND.fullmatch(line.lstrip()) or _FIRST.search(line)
        if found is None:
            continue
        if token is not None:
            token = None if found["name"] == token else token
            continue
        if found["name"] == "stop-commands":
            token = found["data"]
            continue
        pairs = (pair.partition("=") for pair in (found["properties"] or "").split(",") if pair)
        properties = {key.strip(): _unescaped(value, "%3A:", "%2C,") for key, _, value in pairs}
        yield Command(name=found["name"], properties=properties, data=_unescaped(found["data"]))


def _unescaped(text: str, *more: str) -> str:
    for code in ("%0D\r", "%0A\n", *more, "%25%"):
        text = text.replace(code[:3], code[3:])
    return text
