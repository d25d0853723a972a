"""The style sheet of the page, for light and dark screens, wide and narrow ones, and that of a chart alone."""

__all__ = ["DARK", "LIGHT", "PICTURE_STYLE", "STYLE"]

LIGHT: dict[str, str] = {
    "back": "#ffffff", "text": "#1f2328", "soft": "#57606a", "grid": "#e4e7eb", "edge": "#d0d7de", "known": "#2f6690",
    "line": "#7d97ab", "new": "#b93c0b", "tint": "#fdeee6",
}  # fmt: skip
DARK: dict[str, str] = {
    "back": "#14171a", "text": "#e6e8ea", "soft": "#a5adb6", "grid": "#2a2f35", "edge": "#3b424a", "known": "#82b6dd",
    "line": "#62798c", "new": "#ff9466", "tint": "#38241a",
}  # fmt: skip


def _variables(colours: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {value}" for name, value in colours.items())


_CHART = """svg text { font-family: system-ui, sans-serif; fill: var(--soft); paint-order: stroke; stroke: var(--back);
  stroke-width: 3px; stroke-linejoin: round }
svg text.known-name { fill: var(--text) } svg text.new-name { fill: var(--new); font-weight: 700 }
.grid { stroke: var(--grid) } .frontier { fill: none; stroke: var(--line); stroke-dasharray: 5 4; stroke-width: 1.5 }
.known-leader { stroke: var(--line); stroke-width: .8 } .new-leader { stroke: var(--new); stroke-width: .8 }
.known { fill: var(--known); stroke: var(--back) } .new { fill: var(--new); stroke: var(--back) }
.partly { fill: var(--back); stroke-width: 1.5 } .known.partly { stroke: var(--known) }
.new.partly { stroke: var(--new); stroke-width: 2.5 }
.measured { fill: none; stroke: var(--new); stroke-width: 1.5 }
"""
_RULES = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62em; margin: 1.5em auto; padding: 0 1em;
  background: var(--back); color: var(--text); overflow-wrap: break-word }
h1 { font-size: 1.6em; line-height: 1.2; margin: 0 0 .2em } h2 { font-size: 1.2em; margin: 1.6em 0 .4em }
.model { margin-top: 0; color: var(--soft) } .note { color: var(--soft); font-size: .9em }
figure { margin: 1em 0 } svg { display: block; width: 100%; height: auto }
svg.narrow { display: none; max-width: 480px; margin: 0 auto }
@media (max-width: 760px) { svg.wide { display: none } svg.narrow { display: block } body { margin: 1em auto } }
.scroll { overflow-x: auto; margin: .5em 0 }
table { border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { text-align: right; padding: .25em .5em; border-bottom: 1px solid var(--edge) }
th { color: var(--soft); font-weight: 600 }
th.type, td.type { text-align: left; position: sticky; left: 0; background: var(--back) }
th.name, td.name, td.text { text-align: left } table.reasons { white-space: normal }
table.reasons td { vertical-align: top }
tr.new td { color: var(--new); font-weight: 600; background: var(--tint) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1em; font-size: .9em }
dt { color: var(--soft) } dd { margin: 0 } summary { cursor: pointer; margin: 1.2em 0 .4em }
@media print { details { display: block } }
"""

_COLOURS = (
    f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
)
PICTURE_STYLE: str = f"{_COLOURS}svg {{ background: var(--back) }}\n{_CHART}"
STYLE: str = f"{_COLOURS}{_RULES}{_CHART}"
