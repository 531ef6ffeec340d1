r"""Write results.tex, the numbers that codelet7.tex uses, from results.json.

    python -m writeup.macros

codelet7.tex states a number as \result[format]{key}. The key is a path into results.json, such as
curve.mine.20.mse; the format is one of Python's (.2f), or pct for a share in per cent. Without a
format, a float has four decimals, and a count or a text is written as it is. results.tex defines
\defresult{format}{key}{text} for each of these uses.
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent


def percent(share):
    """A share in per cent, for LaTeX: whole, with one decimal near none and near all."""
    form = ".1%" if 0.0005 <= share < 0.005 or 0.995 <= share < 1 else ".0%"
    return format(share, form).replace("%", r"\%")


def to_latex(value, form):
    if form == "pct":
        return percent(value)
    return format(value, form or (".4f" if isinstance(value, float) else "")).replace("-", "$-$")


def find(results, key):
    """The value at a path such as curve.mine.20.mse; KeyError if there is none."""
    for step in key.split("."):
        results = results[step]
    return results


def find_uses(tex):
    r"""The sorted (format, key) pairs that a TeX source uses as \result[format]{key}."""
    return sorted(set(re.findall(r"\\result(?:\[([^]]*)\])?\{([^}#]*)\}", tex)))


def macros(results, tex):
    """The text of results.tex."""
    lines = [f"\\defresult{{{form}}}{{{key}}}{{{to_latex(find(results, key), form)}}}\n"
             for form, key in find_uses(tex)]
    return "% Written by macros.py from results.json.\n" + "".join(lines)


def write_macros():
    results = json.loads((HERE / "results.json").read_text("utf-8"))
    tex = (HERE / "codelet7.tex").read_text("utf-8")
    (HERE / "results.tex").write_text(macros(results, tex), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_macros()
