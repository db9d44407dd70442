"""The HTML report in a real browser: what people see, can do, and what strangers cannot."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import chromium, opened
from crowds import HOSTILE, crowd, stopped
from hostile import GOLDEN

from pytest_mergegate import assess
from pytest_mergegate.common.plain_text import quoted_lines
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.report.formats.html import render
from pytest_mergegate.report.formats.html_parts.charts import clustered
from pytest_mergegate.report.merge_records import ChangedRecord, MergeRecord
from pytest_mergegate.report.types import Collected, FindingRecord, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

_QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
_GRID = "#gate-1-similarity-plot"
_READING = "#gate-1-similarity-plot-reading"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def collapsing() -> Report:
    return assess(_QUICKSTART / "collapsing.mergegate.yaml")


@pytest.fixture(scope="module")
def pages(collapsing: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    broken = collapsing.model_copy(
        update={
            "status": "error",
            "findings": (
                FindingRecord(
                    code="MG001", severity="error", expert="b", message="no folder", fix="name one"
                ),
            ),
        }
    )
    bare = ("experts", "pairs", "merges", "forecasts", "verdicts", "diagnoses", "predictions")
    broken = broken.model_copy(
        update=dict.fromkeys(bare, ())
        | dict.fromkeys(("base", "conflicts", "bounds", "plan"), None)
    )
    contents = {
        "collapsing": (collapsing,),
        "crowd": (crowd(collapsing, 16),),
        "stopped": (stopped(collapsing),),
        "several": (collapsing, broken, stopped(collapsing)),
        "none": (),
        "golden": (golden(collapsing),),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, reports in contents.items():
        text = render(Collected(reports=reports, root=_QUICKSTART.parents[1]))
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: folder / f"{name}.html" for name in contents}


def golden(report: Report) -> Report:
    """``report``, but that what the failing expert and the merge say is hard to show."""
    cases = tuple(
        ChangedRecord(
            input=f"{name}: {quoted_lines(text)[:1000]}",
            expert=quoted_lines(text)[:1000],
            merged=f"{quoted_lines(text)[:500]}!",
            target=quoted_lines(text)[:1000],
            distance=1.0,
            parts_at=0,
        )
        for name, text in GOLDEN.items()
    )

    def spoilt(merge: MergeRecord) -> MergeRecord:
        experts = tuple(
            e.model_copy(update={"changed": cases}) if e.name == "reverse_shout" else e
            for e in merge.experts
        )
        return merge.model_copy(update={"experts": experts})

    return report.model_copy(update={"merges": tuple(map(spoilt, report.merges))})


ALL = ("collapsing", "crowd", "stopped", "several", "none", "golden")


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_logged_fetched_or_asked(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    with opened(browser, pages[name]) as shown:
        plots = shown.run("document.querySelectorAll('.plot').length")
        drawn = shown.run("document.querySelectorAll('.plot .main-svg').length > 0")
        assert drawn == (plots > 0)
        for toggle in shown.page.locator(".toggle label").all():
            toggle.click()
        assert shown.problems == []


def test_the_failing_expert_is_seen_first(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["collapsing"]) as shown:
        page = shown.page
        assert page.locator("h1").inner_text() == "1 of 4 experts over budget under linear"
        verdict = page.locator("header.verdict")
        for text in ("interference with", "leave reverse_shout", "mergegate plan", "limit 30 %"):
            box = verdict.get_by_text(text, exact=False).first.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < 800, text
        assert shown.run("scrollY") == 0


def test_hover_shows_the_pair(browser: Browser, pages: dict[str, Path], collapsing: Report) -> None:
    with opened(browser, pages["collapsing"]) as shown:
        plot = shown.page.locator(f"{_GRID} .nsewdrag").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        shown.page.mouse.move(box["x"] + box["width"] * 3 / 8, box["y"] + box["height"] / 8)
        names = [collapsing.expert_names[place] for place in clustered(collapsing)]
        shown.until(f"document.querySelector('{_READING}').textContent")
        said = shown.page.locator(_READING).inner_text()
        assert said == _reading(collapsing, names[0], names[1], "hidden_similarity")
        assert said in (shown.page.locator(f"{_GRID} .hoverlayer").text_content() or "")


def _reading(report: Report, a: str, b: str, key: str) -> str:
    (pair,) = (p for p in report.pairs if {p.a, p.b} == {a, b})
    return f"{a} and {b}: {key.replace('_', ' ')} {number_text(getattr(pair, key))}"


def test_the_keyboard_walks_the_grid_and_switches_it(
    browser: Browser, pages: dict[str, Path], collapsing: Report
) -> None:
    names = [collapsing.expert_names[place] for place in clustered(collapsing)]
    with opened(browser, pages["collapsing"]) as shown:
        page, output = shown.page, shown.page.locator(_READING)
        page.locator(_GRID).focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp"):
            page.keyboard.press(key)
        assert output.inner_text() == _reading(collapsing, names[0], names[2], "hidden_similarity")
        before = shown.run(f"document.querySelector('{_GRID}').data[0].z")
        label = page.locator(_GRID).get_attribute("aria-label")
        page.locator("input[name=gate-1-similarity-plot]").first.focus()
        page.keyboard.press("ArrowRight")
        shown.until(f"document.querySelector('{_GRID}').getAttribute('aria-label') != {label!r}")
        after = shown.run(f"document.querySelector('{_GRID}').data[0].z")
        pair = next(p for p in collapsing.pairs if {p.a, p.b} == {names[0], names[1]})
        assert before[0][1] == pytest.approx(pair.hidden_similarity)
        assert after[0][1] == pytest.approx(pair.distance)
        assert "Distance:" in page.locator("#gate-1-similarity .unit:visible").inner_text()


_COLOURS = """() => [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector('.plot .xtick text')).fill,
    document.querySelector('.plot .bg, .plot .main-svg').style.background]"""


def test_dark_mode_changes_page_and_plots(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["collapsing"]) as shown:
        light = shown.run(_COLOURS)
        shown.page.emulate_media(color_scheme="dark")
        shown.until(f"({_COLOURS})()[1] != {light[1]!r}")
        dark = shown.run(_COLOURS)
        assert all(one != other for one, other in zip(light, dark, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_nothing_overflows_a_telephone(browser: Browser, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name], width=390, height=844) as shown:
        for details in shown.page.locator("main details:not([open]) > summary").all():
            if details.is_visible():
                details.click()
        assert shown.run("document.documentElement.scrollWidth") == 390


def test_names_are_text_and_nothing_else(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["crowd"]) as shown:
        page = shown.page
        named = page.locator("#gate-1-experts tbody th").all()
        texts = [cell.evaluate("cell => cell.firstChild.data") for cell in named]
        assert texts[: len(HOSTILE)] == list(HOSTILE)
        page.locator(_GRID).focus()
        for _ in HOSTILE:
            page.keyboard.press("ArrowDown")
        assert shown.run("window.hacked") is None
        assert page.locator("main img, main svg a, a[href^=javascript], main b > *").count() == 0
        ticks = page.locator(f"{_GRID} .ytick text").all_text_contents()
        assert any(tick.startswith("<script>") for tick in ticks)
        assert any(tick.startswith("$\\alpha$") for tick in ticks)
        assert shown.problems == []


@pytest.mark.parametrize("name", ALL)
def test_landmarks_headings_tables_and_names(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    with opened(browser, pages[name]) as shown:
        levels = shown.run(
            "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert shown.run(_ACCESSIBILITY) == []
        assert shown.page.locator("main").count() == 1
        assert shown.run("document.documentElement.lang") == "en"


_ACCESSIBILITY = """() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const ids = all('[id]').filter((e) => !e.closest('svg')).map((e) => e.id);
  ids.filter((id, k) => ids.indexOf(id) !== k).forEach((id) => found.push('twice: ' + id));
  for (const name of ['aria-labelledby', 'aria-describedby', 'for'])
    all(`[${name}]`).forEach((e) => e.getAttribute(name).split(' ')
      .filter((id) => !document.getElementById(id)).forEach((id) => found.push(name + ' ' + id)));
  all('a[href^="#"]').filter((a) => !document.getElementById(a.hash.slice(1)))
    .forEach((a) => found.push('nowhere: ' + a.hash));
  all('[role=img], [role=application], [role=region], nav').forEach((e) => {
    if (!e.getAttribute('aria-label')) found.push('no name: ' + e.id); });
  all('table').forEach((t) => {
    if (!t.caption || !t.caption.textContent.trim()) found.push('no caption');
    if ([...t.querySelectorAll('th')].some((th) => !th.scope)) found.push('no scope');
    if ([...t.querySelectorAll('td')].some((td) => !td.textContent.trim())) found.push('blank');
  });
  all('.plot').forEach((p) => {
    if (!p.closest('figure').querySelector('details table')) found.push('no table: ' + p.id); });
  all('input').forEach((i) => { if (!i.labels.length) found.push('no label: ' + i.name); });
  return found;
}"""

_CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
  };
  return [...document.querySelectorAll('body *')]
    .filter((e) => !e.closest('svg, script, .unseen, .skip') && e.checkVisibility() &&
      [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort();
      const [low, high] = a < b ? [a, b] : [b, a];
      return [e.className + ' ' + e.textContent.slice(0, 30), (high + 0.05) / (low + 0.05)];
    });
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible(browser: Browser, pages: dict[str, Path], dark: bool) -> None:
    with opened(browser, pages["several"], dark=dark) as shown:
        contrasts: list[Any] = shown.run(_CONTRASTS)
        assert len(contrasts) > 100
        assert [what for what, contrast in contrasts if contrast < 4.5] == []


_WIDTHS = """() => { dispatchEvent(new Event('beforeprint'));
    return [...document.querySelectorAll('.js-plotly-plot svg')]
      .map(plot => plot.getBoundingClientRect().width) }"""


def test_plots_fit_on_paper(browser: Browser, pages: dict[str, Path]) -> None:
    """At once: the printer waits for nothing. A4 has 688 pixels between its margins, Letter 710."""
    with opened(browser, pages["collapsing"]) as shown:
        widths = shown.run(_WIDTHS)
        assert widths
        assert max(widths) <= 688
        shown.run("dispatchEvent(new Event('afterprint'))")
        drawn = "document.querySelector('.js-plotly-plot svg').getBoundingClientRect().width"
        shown.until(f"{drawn} > 688")


def test_paper_is_white_and_folds_nothing(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["collapsing"], dark=True) as shown:
        dark = shown.run(_COLOURS)
        shown.run("dispatchEvent(new Event('beforeprint'))")
        shown.until(f"({_COLOURS})()[1] != {dark[1]!r}")
        assert shown.page.locator("details:not([open]):not(.changed)").count() == 0
        shown.run("dispatchEvent(new Event('afterprint'))")
        shown.until(f"({_COLOURS})()[1] == {dark[1]!r}")
        assert shown.page.locator("details[open]:not(.changed)").count() == 0
        assert shown.page.pdf(format="A4").startswith(b"%PDF")


def test_what_was_not_computed_says_so(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["stopped"]) as shown:
        page = shown.page
        assert page.locator("h1").inner_text() == "4 of 4 undecided"
        for section in ("similarity", "conflict", "damage", "distortion", "plan"):
            text = page.locator(f"#gate-1-{section}").inner_text()
            assert "not computed: stage_not_run" in text, section
        cells = page.locator("#gate-1-experts td.number").all_inner_texts()
        assert len(cells) >= 16
        assert all(cell.startswith("not computed: ") for cell in cells[:16])


def test_what_the_expert_says_stands_beside_what_the_merge_says(
    browser: Browser, pages: dict[str, Path], collapsing: Report
) -> None:
    merge = next(m for m in collapsing.merges if m.method == "linear")
    case = next(e for e in merge.experts if e.name == "reverse_shout").changed[0]
    assert case.expert == case.target
    assert case.expert.upper().startswith(case.merged)  # it forgot to whisper, and the mark
    with opened(browser, pages["collapsing"]) as shown:
        worst = shown.page.locator(".verdict .concern .case")
        assert worst.locator("dd").all_inner_texts() == [
            *(case.input, case.target, case.expert, case.merged)
        ]
        assert worst.locator("mark").all_inner_texts() == [case.expert, case.merged]
        boxes = [worst.locator(side).bounding_box() for side in (".own", ".other")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["y"] + boxes[0]["height"] < 800
        assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]


_SHOWN = """[...document.querySelectorAll('#gate-1-cases .changed')]
    .filter((group) => group.checkVisibility())
    .map((group) => [group.dataset.expert, group.dataset.method, group.open])"""


def test_cases_are_filtered_with_the_keyboard(
    browser: Browser, pages: dict[str, Path], collapsing: Report
) -> None:
    known = [
        (e.name, m.method, len(e.changed))
        for m in collapsing.merges
        for e in m.experts
        if e.changed
    ]
    with opened(browser, pages["collapsing"]) as shown:
        page, output = shown.page, shown.page.locator("#gate-1-cases output")
        assert {(name, method) for name, method, _ in shown.run(_SHOWN)} == {
            (name, method) for name, method, _ in known
        }
        assert output.inner_text() == f"{sum(count for *_, count in known)} cases"
        assert [found for found in shown.run(_SHOWN) if found[2]] == [
            ["reverse_shout", "linear", True]
        ]
        page.get_by_label("Expert", exact=True).focus()
        page.keyboard.type("reverse_u")
        assert shown.run(_SHOWN) == [
            [name, method, True] for name, method, _ in known if name == "reverse_upper"
        ]
        page.keyboard.press("Tab")
        page.keyboard.type("ties")
        ((name, method, count),) = (
            found for found in known if found[:2] == ("reverse_upper", "ties density=0.5")
        )
        assert shown.run(_SHOWN) == [[name, method, True]]
        assert output.inner_text() == f"{count} cases"
        assert page.locator("#gate-1-cases dd:visible").count() == 4 * count
        page.get_by_label("Merge", exact=True).select_option("all")
        page.get_by_label("Expert", exact=True).select_option("all")
        assert len(shown.run(_SHOWN)) == len(known)


def test_only_open_cases_are_printed(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["collapsing"]) as shown:
        shown.page.emulate_media(media="print")
        shown.run("dispatchEvent(new Event('beforeprint'))")
        assert not shown.page.locator(".filter").is_visible()
        assert shown.page.locator("#gate-1-cases .case:visible").count() == 3


def test_texts_are_text_and_nothing_else(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["golden"]) as shown:
        page = shown.page
        shown.run("document.querySelectorAll('.changed').forEach((group) => group.open = true)")
        assert shown.run("window.hacked") is None
        steering = ".case img, .case a, .case script, .case dd > :not(mark, span)"
        assert page.locator(steering).count() == 0
        said = shown.run(
            "[...document.querySelectorAll('#gate-1-cases .changed')]"
            ".find((g) => g.dataset.expert === 'reverse_shout').querySelectorAll('.own dd')"
            ".values().map((dd) => dd.textContent).toArray()"
        )
        texts = [quoted_lines(text)[:1000] or "nothing" for text in GOLDEN.values()]
        assert said == texts
        assert shown.problems == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("stopped", "not computed: stage_not_run"), ("crowd", " cases"), ("collapsing", " cases")],
)
def test_where_there_are_no_cases_it_says_so(
    browser: Browser, pages: dict[str, Path], name: str, said: str
) -> None:
    with opened(browser, pages[name]) as shown:
        assert said in shown.page.locator("#gate-1-cases").inner_text()


def test_a_gate_that_keeps_text_to_itself(
    browser: Browser, collapsing: Report, tmp_path: Path
) -> None:
    empty = golden(collapsing)
    merges = tuple(
        m.model_copy(
            update={"experts": tuple(e.model_copy(update={"changed": ()}) for e in m.experts)}
        )
        for m in empty.merges
    )
    settings = collapsing.settings | {"certificate": {"shown": 0}}
    report = empty.model_copy(update={"merges": merges, "settings": settings})
    (tmp_path / "page.html").write_text(render(Collected(reports=(report,))), "utf-8")
    with opened(browser, tmp_path / "page.html") as shown:
        assert "certificate.shown: 0" in shown.page.locator("#gate-1-cases").inner_text()
        assert shown.page.locator(".case, .filter").count() == 0


def test_without_javascript_the_numbers_are_there(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(pages["collapsing"].as_uri())
    assert page.locator(".verdict").inner_text().count("100 %") >= 2
    page.locator("#gate-1-similarity summary").click()
    assert page.locator("#gate-1-similarity table").is_visible()
    assert not page.locator(".filter").is_visible()
    assert page.locator("#gate-1-cases .case:visible").count() == 3
    page.get_by_text("first_last under linear").click()
    assert page.locator("#gate-1-cases .case:visible").count() > 3
    context.close()


def test_the_same_reports_give_the_same_page(collapsing: Report) -> None:
    again = Report.from_json(collapsing.to_json())
    assert render(Collected(reports=(collapsing,))) == render(Collected(reports=(again,)))
