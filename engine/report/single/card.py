"""The model card (Mitchell et al., FAT* 2019): what the report knows is filled in, what only the makers know is asked."""

import jinja2

from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page.page import Context, interval, number, title
from equipoise.engine.report.single import findings
from equipoise.engine.report.single import methods_text as methods

_TEMPLATE = """# Model card: {{ model }}

{{ heading }}

## Model details

{{ details }}

## Intended use

_To be completed by those who made the model: who should use it, for whom, and for whom not._

## Factors

Groups reported: {{ factors }}.

## Metrics

{{ metrics }}

## Evaluation data

{{ data }}

_To be completed: where these data come from, who recorded the attributes and how, and that none of these people were in training._

## Training data

{{ training }}

## Quantitative analyses

{% for sentence in findings %}
- {{ sentence }}
{% endfor %}

{% for grid in grids %}
| {{ grid[0] | join(" | ") }} |
|{{ "---|" * (grid[0] | length) }}
{% for row in grid[1] %}
| {{ row | join(" | ") }} |
{% endfor %}

{% endfor %}
All scores with their intervals: `metrics.csv`, `metrics.json`; the page: `report.html`.

## Ethical considerations

_To be completed: consequences of missed and of false findings for each group, and who decides on them._

## Caveats

{{ caveats }}
"""


def _plain(text: str) -> str:
    """Text that neither Markdown nor the HTML inside it can run away with."""
    for sign in "#\\`*_[]|<>":
        text = text.replace(sign, f"&#{ord(sign)};")
    return " ".join(text.split())


def _grid(context: Context, attribute: str) -> tuple[list[str], list[list[str]]]:
    metrics = findings.shown(context)
    rows = []
    for level in context.levels(attribute):
        cells = [context.frame.groups[attribute][level][m] for m in metrics]
        shown = [f"{number(e.value)} ({interval(*e.limits(CONFIDENCE)) or 'no interval'})" for e in cells]
        rows.append([_plain(level), *shown])
    return [_plain(attribute), *map(title, metrics)], rows


def text(context: Context, heading: str, headlines: list[str]) -> str:
    """The card as Markdown."""
    config = context.config
    details = "_To be completed: who made it, when, its architecture and version._"
    training = "_To be completed._"
    if context.is_run:
        model = config.get("model", {}).get("name", "")
        details = f"Network {_plain(str(model))}, checkpoint of step {context.step}, configuration {context.frame.settings['config_fingerprint']}."
        training = f"Cohort {_plain(str(config.get('data', {}).get('cohort', '')))}."
    said = [_plain(s) for s in [*headlines, *findings.statements(context)]]
    return jinja2.Template(
        _TEMPLATE, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).render(
        model=_plain(context.model_names[0]),
        heading=_plain(heading),
        details=details,
        factors=", ".join(_plain(a) for a in context.frame.groups) or "none",
        metrics=", ".join(title(m) for m in context.frame.overall),
        data=_plain(methods.paragraph(context)),
        training=training,
        findings=list(dict.fromkeys(said)),
        grids=[_grid(context, a) for a in context.simple],
        caveats=" ".join(_plain(n) for n in context.notes)
        or "Not seeing a gap is not evidence that there is none: see “smallest detectable” in the report.",
    )
