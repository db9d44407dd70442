"""The numbers of the paper's tables, from the data that was printed in them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pytest_mergegate.metrics import merging_loss, paper_loss_model, pool_losses
from pytest_mergegate.metrics import prediction as model

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())
METHODS = ("LA", "TA", "TIES", "DARE", "SLERP")


def rows(name):
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


TABLE_1, TABLE_2, TABLES_7_TO_10 = rows("table1.csv"), rows("table2.csv"), rows("tables7-10.csv")
QWEN = ("3B", "7B", "14B")


def losses_of(size, method):
    return [
        float(row["loss"])
        for row in TABLE_2
        if row["model"] == f"Qwen2.5-{size}" and row["method"] == method
    ]


def best_losses(group):
    return [
        max(float(row[m]) for m in METHODS[:3]) for row in TABLES_7_TO_10 if row["group"] == group
    ]


def difficulties(group):
    return [float(row["MDS"]) for row in TABLES_7_TO_10 if row["group"] == group]


@pytest.mark.parametrize("row", TABLE_2, ids=lambda r: f"{r['model']}-{r['method']}-{r['task']}")
def test_losses_of_table_2_follow_from_their_scores(row):
    merged, expert = float(row["merged"]), float(row["finetuned"])
    # Scores are printed to 0.05 and the loss to 0.05.
    tolerance = 0.051 + 100 * (0.05 + 0.05 * merged / expert) / expert
    assert merging_loss(merged, expert) == pytest.approx(float(row["loss"]), abs=tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", QWEN)
def test_table_1_follows_from_table_2(size, method):
    (printed,) = (
        row for row in TABLE_1 if (row["model"], row["method"]) == (f"Qwen2.5-{size}", method)
    )
    losses = losses_of(size, method)
    assert len(losses) == 8
    mean, spread = -pool_losses(losses).mean, float(np.std(losses))
    assert mean == pytest.approx(float(printed["loss_mean"]), abs=0.06)
    assert spread == pytest.approx(float(printed["loss_std"]), abs=0.06)
    assert [mean, spread] == pytest.approx(
        GOLDEN["table1_qwen_recomputed_mean_popstd"][size][method], abs=1e-4
    )


@pytest.mark.parametrize(
    ("group", "low", "high"),
    [
        ("GLUE", 0.0031, 0.0035),
        ("a", 0.0012, 0.0013),
        ("b", 0.0282, 0.0292),
        ("c", 0.0055, 0.0060),
    ],
)
def test_table_5_correlation_of_mds_with_the_best_loss(group, low, high):
    golden = GOLDEN["table5"][group.lower()]
    assert best_losses(group) == golden["best_LA_TA_TIES_as_printed"]
    result = stats.pearsonr(difficulties(group), best_losses(group))
    assert low <= result.pvalue <= high
    assert result.pvalue == pytest.approx(golden["p"], rel=1e-3)
    assert result.statistic == pytest.approx(golden["r"], abs=1e-6)
    rho = stats.spearmanr(difficulties(group), best_losses(group)).statistic
    assert rho == pytest.approx(golden["rho"], abs=1e-4)


def best_of_table_2(methods):
    losses = [losses_of("3B", method) for method in methods]
    return [max(of_task) for of_task in zip(*losses, strict=True)]


@pytest.mark.parametrize(
    ("key", "methods"), [("glue_correct_LA_TA_TIES", METHODS[:3]), ("glue_all5", METHODS)]
)
def test_table_7_with_the_true_losses_of_table_2(key, methods):
    golden = GOLDEN["table5"][key]
    assert best_of_table_2(methods) == golden["best"]
    result = stats.pearsonr(difficulties("GLUE"), golden["best"])
    assert [result.statistic, result.pvalue] == pytest.approx([golden["r"], golden["p"]], abs=1e-6)


@pytest.mark.parametrize(
    ("key", "methods", "factor"),
    [
        ("all5_method", METHODS, "method"),
        ("all5_task", METHODS, "task"),
        ("noDARE_method", ("LA", "TA", "TIES", "SLERP"), "method"),
        ("noDARE_task", ("LA", "TA", "TIES", "SLERP"), "task"),
    ],
)
def test_one_way_anova_of_table_2(key, methods, factor):
    levels = {}
    for row in TABLE_2:
        if row["method"] in methods:
            levels.setdefault(row[factor], []).append(float(row["loss"]))
    result = stats.f_oneway(*levels.values())
    assert [result.statistic, result.pvalue] == pytest.approx(GOLDEN["anova_table2"][key], rel=1e-9)


def test_the_default_loss_model_is_the_line_through_the_32_rows():
    groups = ("a", "b", "c")
    mds = np.array(difficulties("GLUE") + [x for g in groups for x in difficulties(g)])
    loss = np.array(best_of_table_2(METHODS) + [y for g in groups for y in best_losses(g)])
    fit = stats.linregress(mds, loss)
    residuals = loss - fit.intercept - fit.slope * mds
    assert len(mds) == model.ROWS
    assert fit.intercept == pytest.approx(model.INTERCEPT, abs=0.005)
    assert fit.slope == pytest.approx(model.SLOPE, abs=0.005)
    assert residuals.std(ddof=2) == pytest.approx(model.RESIDUAL_SD, abs=0.05)
    assert mds.mean() == pytest.approx(model.MEAN_MDS, abs=1e-9)
    assert mds.var() * len(mds) == pytest.approx(model.SUM_OF_SQUARES_MDS, abs=0.005)
    assert fit.rvalue**2 == pytest.approx(0.58, abs=0.005)
    # The residuals have heavier tails than the normal: 84% of the rows lie in the 90% interval.
    predictions = [paper_loss_model(x) for x in mds]
    inside = [p.low <= y <= p.high for p, y in zip(predictions, loss, strict=True)]
    assert sum(inside) == 27


def test_the_printed_losses_alone_give_nearly_the_same_line():
    loss = [y for g in ("GLUE", "a", "b", "c") for y in best_losses(g)]
    mds = [x for g in ("GLUE", "a", "b", "c") for x in difficulties(g)]
    fit = stats.linregress(mds, loss)
    assert [fit.intercept, fit.slope] == pytest.approx([13.52, -11.36], abs=0.005)
