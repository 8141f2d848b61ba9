"""The pages of a W&B project: a saved view of its runs and a report, with the same panels.

python src/dashboard.py project=attnlab
"""

from typing import Any

from omegaconf import DictConfig

from attnlab.config import resolve
from attnlab.errors import UserError, as_user_error, needs_extra
from attnlab.training.loggers import CONFUSION, MISTAKES, SETTING, has_key

SEARCHED = (
    *("optimizer.lr", "data.batch_size", "tokenizer.max_length", "tokenizer.vocab_size"),
    *("model.pooling", "model.embed_dim", "model.num_heads"),
)
NAME = "attnlab"  # of the view and the report


def dashboard(cfg: DictConfig) -> list[str]:
    """Save a report and a view of `cfg.project`; W&B prints their addresses.

    Returns:
        their addresses.

    Raises:
        UserError: no key is configured, the extra is not installed, or W&B refuses.
    """
    config = resolve(cfg)
    if not has_key():
        raise UserError("no key of W&B is configured: set WANDB_API_KEY (see .env.example), or run `wandb login` once")
    with needs_extra("dashboard", "a dashboard"):
        import wandb
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2 as reports
    with as_user_error("W&B"):
        place = {"entity": config["entity"] or wandb.Api().default_entity, "project": config["project"]}
        blocks: list[Any] = [
            reports.P("Which part helps? compare.py says with statistics; here are the runs behind it.")
        ]
        for name, panels in _panels().items():
            blocks += [reports.H2(name), reports.PanelGrid(runsets=[reports.Runset(**place)], panels=panels)]
        report = reports.Report(**place, title=NAME, blocks=blocks, width="fluid")
        sections = [workspaces.Section(name=name, panels=panels, is_open=True) for name, panels in _panels().items()]
        view = workspaces.Workspace(**place, name=NAME, sections=sections)
        return [page.save().url for page in (report, view)]


def _panels() -> dict[str, list[Any]]:
    """The panels by section: they use only what every run logs."""
    from wandb_workspaces.reports import v2 as reports

    setting = reports.Config(SETTING)
    grouped = {"groupby": setting, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    columns = [
        reports.ParallelCoordinatesPlotColumn(metric=reports.Config(name), log=name == "optimizer.lr" or None)
        for name in SEARCHED
    ]
    columns.append(reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric("val/loss")))
    confusion = reports.CustomChart(
        query={"summaryTable": {"tableKey": f"{CONFUSION}_table"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        chart_strings={"title": CONFUSION},
    )
    found = [f"search/{name}" for name in ("history", "parallel_coordinates", "importances", "slice")]
    return {
        "Accuracy by setting": [
            reports.BarPlot(title="test/acc by setting", metrics=["test/acc"], **grouped),
            reports.ScatterPlot(
                title="test/acc against training time",
                x=reports.SummaryMetric("train/seconds"),
                y=reports.SummaryMetric("test/acc"),
                log_x=True,
            ),
        ],
        "Curves by setting": [
            reports.LinePlot(title=name, x="epoch", y=[name], **grouped)
            for name in ("val/acc", "val/loss", "train/loss")
        ],
        "Settings and scores": [
            reports.ParallelCoordinatesPlot(title="Settings against val/loss", columns=columns),
            reports.ParameterImportancePlot(with_respect_to="val/loss"),
        ],
        "Confusion and mistakes": [
            confusion,
            reports.WeavePanelSummaryTable(table_name=MISTAKES),
            reports.MediaBrowser(media_keys=["figures/confusion_matrix", "figures/reliability"]),
        ],
        "Searches": [
            reports.ScatterPlot(
                title="History", x=reports.SummaryMetric("search/trial"), y=reports.SummaryMetric("val/loss")
            ),
            reports.WeavePanelSummaryTable(table_name="search/trials"),
            reports.MediaBrowser(media_keys=found),
        ],
    }
