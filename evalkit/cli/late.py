"""Commands whose words depend on plugins: these are looked up when the command itself is used.

`evalkit --help` and all other commands neither import metrics nor search for charts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from evalkit.analysis.gate import Limit


class CheckCommand(TyperCommand):
    """`evalkit check` with an option for each limit; what is given is the context's `obj`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of the command and of all limits."""
        return [*self._limits(), *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> Any:
        """Run the command with the limits taken out of its parameters."""
        words = {option.name: ctx.params.pop(option.name, None) for option in self._limits()}
        ctx.obj = {name: word for name, word in words.items() if word is not None}
        return super().invoke(ctx)

    def _limits(self) -> list[Any]:
        if not hasattr(self, "_options"):
            from evalkit.metrics import gate_limits

            self._options = _options(gate_limits())
        return self._options


class ChartCommand(TyperCommand):
    """`evalkit chart`, whose help names all charts."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the command, the names of charts in the help of NAME."""
        from evalkit.view.charts import chart_names

        params = super().get_params(ctx)
        name: Any = next(param for param in params if param.name == "name")
        kinds = {"comparison": "comparison", "bench": "bench", "sensitivity": "damage map"}
        words = [f"of a {noun}: {', '.join(chart_names(kind))}." for kind, noun in kinds.items()]
        name.help = f"A chart {' Or '.join(words)}"
        return params


def _options(limits: Mapping[str, Limit]) -> list[Any]:
    """An option of the command line for each limit, made by typer as for any command."""

    def declared(**_: Any) -> None:
        pass

    declared.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                limit.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None, typer.Option(metavar=limit.example, help=limit.help)
                ],
            )
            for limit in limits.values()
        ]
    )
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(declared)
    return [param for param in typer.main.get_command(app).params if param.name in limits]
