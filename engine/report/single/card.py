"""The model card (Mitchell et al., FAT* 2019): filled in where the report knows, with questions where only the makers know."""

import jinja2

from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page.words import interval, number, title
from equipoise.engine.report.single import findings
from equipoise.engine.report.single import methods_text as methods
from equipoise.engine.report.single.context import Context

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

{% for table in tables %}
| {{ table[0] | join(" | ") }} |
|{{ "---|" * (table[0] | length) }}
{% for row in table[1] %}
| {{ row | join(" | ") }} |
{% endfor %}

{% endfor %}
All scores with their intervals are in `metrics.csv` and `metrics.json`; the page is `report.html`.

## Ethical considerations

_To be completed: the consequences of missed and of false findings for each group, and who decides about them._

## Caveats

{{ caveats }}
"""


def _plain(text: str) -> str:
    """The text in one line, escaped, so that it cannot act as Markdown or HTML."""
    for sign in "#\\`*_[]|<>":
        text = text.replace(sign, f"&#{ord(sign)};")
    return " ".join(text.split())


def _table(context: Context, attribute: str) -> tuple[list[str], list[list[str]]]:
    metrics = findings.shown(context)
    rows = []
    for level in context.levels(attribute):
        cells = [context.frame.groups[attribute][level][m] for m in metrics]
        shown = [f"{number(e.value)} ({interval(*e.limits(CONFIDENCE)) or 'no interval'})" for e in cells]
        rows.append([_plain(level), *shown])
    return [_plain(attribute), *map(title, metrics)], rows


def text(context: Context, heading: str, headlines: list[str]) -> str:
    """The model card as Markdown.

    Args:
      context: the report.
      heading: title of the report.
      headlines: sentences at the top of the report.
    """
    config = context.config
    details = "_To be completed: who made it, when, its architecture and version._"
    training = "_To be completed._"
    if context.is_run:
        model = config.get("model", {}).get("name", "")
        details = f"Network {_plain(str(model))}, checkpoint of step {context.step}, configuration {context.frame.settings['config_fingerprint']}."
        training = f"Cohort {_plain(str(config.get('data', {}).get('cohort', '')))}."
    sentences = [_plain(s) for s in [*headlines, *findings.statements(context)]]
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
        findings=list(dict.fromkeys(sentences)),
        tables=[_table(context, a) for a in context.simple],
        caveats=" ".join(_plain(n) for n in context.notes)
        or "Not seeing a gap is not evidence that there is none; see “smallest detectable” in the report.",
    )
