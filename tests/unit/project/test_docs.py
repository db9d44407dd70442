"""What README and docs show must be what the package takes."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from doc_blocks import Block, blocks, pages

from pytest_mergegate import preflight
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.gate.spec import GateSpec

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
SITE = "https://pytest-mergegate.github.io/pytest-mergegate/"
LANGUAGES = {"console", "python", "pycon", "toml", "yaml", "json"}
"""What is run or checked; tests/integration/test_docs_commands.py runs the first four."""
HARNESS = "tests/integration/test_harness.py runs a task like it"


class WithoutTags(yaml.SafeLoader):
    """Reads the tags of other programs as plain values."""


WithoutTags.add_multi_constructor("!", lambda loader, _, node: None)


def _is_a_gate(block: Block, folder: Path) -> None:
    data = yaml.safe_load(block.text)
    if "experts" not in data and "merge_method" not in data:  # a part of one
        assert set(data) <= set(GateSpec.model_fields)
        data |= {"experts": {"one": "adapters/one", "two": "adapters/two"}}
        path = folder / "mergegate.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
    else:
        path = folder / "mergegate.yaml"
        path.write_text(block.text, encoding="utf-8")
    gate = load_gate(path)
    assert len(gate.spec.experts) >= (1 if gate.spec.merged else 2)


def _is_of_pre_commit(block: Block, _: Path) -> None:
    (repository,) = yaml.safe_load(block.text)["repos"]
    ours = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert {hook["id"] for hook in repository["hooks"]} <= {hook["id"] for hook in ours}


def _is_a_workflow(block: Block, _: Path) -> None:
    data = yaml.safe_load(block.text)
    # YAML 1.1 reads `on` as true
    steps = (
        data if isinstance(data, list) else [s for j in data["jobs"].values() for s in j["steps"]]
    )
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        if step.get("uses", "").startswith("pytest-mergegate/"):
            assert set(step.get("with", {})) <= set(action["inputs"])
        _takes(step.get("run", ""))


def _is_of_gitlab(block: Block, _: Path) -> None:
    (job,) = yaml.load(block.text, Loader=WithoutTags).values()
    assert {"image", "cache", "script", "artifacts"} <= set(job)
    assert job["artifacts"]["when"] == job["cache"]["when"] == "always"
    (script,) = job["script"]
    _takes(script)
    written = set(re.findall(r"--junitxml=(\S+)|--mergegate-report \w+:(\S+)", script))
    kept = {*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]}
    assert {a or b for a, b in written} == kept
    assert job["variables"]["MERGEGATE_CACHE"].startswith("$CI_PROJECT_DIR/.cache/")
    assert job["cache"]["paths"] == [".cache"]


def _takes(command: str) -> None:
    """Whether options that a command names exist."""
    told = (ROOT / "docs/reference/commands.md", ROOT / "docs/reference/options.md")
    known = "\n".join(path.read_text(encoding="utf-8") for path in told)
    if command.startswith(("mergegate", "pytest")):
        for option in re.findall(r"(--[a-z-]+)", command.replace("--junitxml", "")):
            assert re.search(rf"`{option}\b", known), option


def _is_a_schema_line(block: Block, _: Path) -> None:
    assert block.text == "# yaml-language-server: $schema=mergegate.schema.json\n"


def _is_a_harness_task(block: Block, _: Path) -> None:
    task = yaml.safe_load(block.text)
    source = (ROOT / HARNESS.split()[0]).read_text(encoding="utf-8")
    assert all(key in source for key in task)


KINDS: dict[str, Callable[[Block, Path], None]] = {
    r"^repos:": _is_of_pre_commit,
    r"^jobs:|^- (uses|run|name):": _is_a_workflow,
    r"^# \.gitlab-ci\.yml": _is_of_gitlab,
    r"^# yaml-language-server.*\n\Z": _is_a_schema_line,
    r"^output_type:": _is_a_harness_task,
    r"^(experts|budget|merge|merge_method|probes|certificate|ignore|judge|base):": _is_a_gate,
}

SHOWN = [block for page in pages() for block in blocks(page)]


def _of(*languages: str) -> list[Any]:
    return [pytest.param(b, id=b.where) for b in SHOWN if b.language in languages]


def test_every_block_is_run_or_checked() -> None:
    assert len(SHOWN) > 45
    assert [b.where for b in SHOWN if b.language not in LANGUAGES] == []
    fences = {
        page: len(re.findall(r"^ *```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))
        for page in pages()
    }
    seen = {page: 2 * sum(block.page == page for block in SHOWN) for page in pages()}
    assert seen == fences  # no fence of another form escapes


@pytest.mark.parametrize("block", _of("yaml"))
def test_yaml_is_what_it_seems(block: Block, tmp_path: Path) -> None:
    kinds = [check for start, check in KINDS.items() if re.search(start, block.text, re.MULTILINE)]
    assert kinds, f"{block.where}: nothing checks a block like this"
    kinds[0](block, tmp_path)


@pytest.mark.parametrize("block", _of("json"))
def test_json_is_json(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


def test_the_reference_is_made_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    made = runpy.run_path(str(ROOT / ".ci" / "reference.py"))
    for name, page in made["PAGES"].items():
        kept = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert kept == page(), f"run: python .ci/reference.py ({name})"


LINK = re.compile(r"\]\(([^)\s]+)\)")
READ_ON_GITHUB = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]


@pytest.mark.parametrize("page", sorted({*READ_ON_GITHUB, *pages()}))
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if target.startswith(SITE):
            target = _page_of(target)
        elif ":" in target:
            continue
        path = (folder / target) if target else ROOT / page
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in _anchors(path), link


def _page_of(url: str) -> str:
    name = url.removeprefix(SITE).strip("/") or "index"
    return str(ROOT / "docs" / f"{name}.md")


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    # as GitHub and mkdocs make them: letters, digits and hyphens of what the heading says
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_the_pages_that_the_product_links_to(site: Path) -> None:
    assert {page.parent.name for page in site.glob("findings/MG*/index.html")} == _codes()
    text = (site / "index.html").read_text(encoding="utf-8")
    assert all(f"findings/{code}/" in text for code in _codes())  # in the navigation


def test_the_site_asks_nothing_of_others(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?([^\" >]+)", text)
        sheets = re.findall(r"<link[^>]*>", text)
        loaded += [
            re.search(r"href=\"?([^\" >]+)", tag)[1]  # type: ignore[index]
            for tag in sheets
            if "canonical" not in tag
        ]
        assert loaded
        assert not [link for link in loaded if "//" in link], page


def test_reference_has_every_function_and_model(site: Path) -> None:
    from pytest_mergegate import metrics

    page = (site / "reference" / "metrics" / "index.html").read_text(encoding="utf-8")
    own = [n for n, item in vars(metrics).items() if isinstance(item, (type, FunctionType))]
    assert len(own) > 40
    assert [name for name in own if f'id="pytest_mergegate.metrics.{name}"' not in page] == []


ROW = re.compile(r"^\| ([\d.]+) \|(.+)\|$", re.MULTILINE)


def test_tables_of_inputs_are_computed() -> None:
    from pytest_mergegate.metrics import disagreement_bound, inputs_needed

    text = (ROOT / "docs" / "choosing-a-budget.md").read_text(encoding="utf-8")
    rows = {first: [cell.strip() for cell in rest.split("|")] for first, rest in ROW.findall(text)}
    bounds = {int(n): cells for n, cells in rows.items() if "." not in n}
    limits = {float(limit): cells for limit, cells in rows.items() if "." in limit}
    assert len(bounds) == 6
    assert len(limits) == 5
    for n, cells in bounds.items():
        differing = [0, 1, 2, 4, round(n / 10)]
        assert cells == [f"{100 * disagreement_bound(k, n):.1f} %" for k in differing]
    for limit, cells in limits.items():
        rates = [0, 10, 20, 50, 100]
        needed = [inputs_needed(k, 1000, limit) if k / 1000 < limit else "" for k in rates]
        assert cells == [str(count) for count in needed]


def test_scores_are_those_of_the_validation() -> None:
    measured = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    chosen = (ROOT / "docs" / "choosing-a-budget.md").read_text(encoding="utf-8")
    ranked = measured.partition("## How well each score ranks")[2].partition("Average precision")[0]
    found = {}
    for line in ranked.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[cells[0]] = [cell.split(" ")[0] for cell in cells[2:]]
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| [^|]+ ((?:\| (?:[01]\.\d{3}|-) )+)\|$", chosen, re.MULTILINE
    )
    assert len(rows) >= 15
    for score, numbers in rows:
        shown = [number.strip() for number in numbers.strip("| ").split("|")]
        assert found[score][: len(shown)] == shown, score


FINDINGS = ROOT / "docs" / "findings"
CODE = re.compile(r"MG\d{3}")


def _codes() -> set[str]:
    sources = (p.read_text(encoding="utf-8") for p in (ROOT / "pytest_mergegate").rglob("*.py"))
    return {code for source in sources for code in CODE.findall(source)}


def test_every_code_has_a_page_and_its_line() -> None:
    index = FINDINGS.with_suffix(".md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[(MG\d{3})\]\(findings/(MG\d{3})\.md\) \|", index, re.MULTILINE)
    assert all(name == page for name, page in linked)
    assert [name for name, _ in linked] == sorted(_codes())
    assert {page.stem for page in FINDINGS.iterdir()} == _codes()


@pytest.mark.parametrize("page", sorted(FINDINGS.iterdir()), ids=lambda page: page.stem)
def test_every_page_answers_the_same_questions(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}: ")
    asked = re.findall(r"^\*\*(.+?)\.\*\* \S", text, re.MULTILINE)
    assert asked == ["What it is", "How to see it", "Why it matters", "How to fix it"]
    assert "ignore" in text.splitlines()[1]  # whether it can be softened
    assert set(CODE.findall(text)) <= _codes()


def test_every_rule_is_registered_and_has_one_code() -> None:
    modules = [rule.module.__name__.rpartition(".")[2] for rule in preflight.RULES]
    files = sorted(Path(preflight.__file__).parent.glob("mg*.py"))
    assert modules == [file.stem for file in files]
    for rule, file in zip(preflight.RULES, files, strict=True):
        code = file.stem[:5].upper()
        assert rule.code == code
        source = file.read_text(encoding="utf-8")
        assert source.startswith(f'"""{code}: ')
        assert set(re.findall(r'"(MG\d{3})"', source)) <= {code}


def test_security_names_the_tests_that_hold_its_promises() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    held = set(re.findall(r"`(test_\w+\.py)`", text))
    assert held == {path.name for path in (ROOT / "tests" / "untrusted").glob("test_*.py")}
