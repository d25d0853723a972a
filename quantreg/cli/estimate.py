"""The subcommand `quantreg estimate`."""

import os
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.show import bits, print_json, printable, size, table, warn
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg import Plan

_MODEL_SUFFIXES = (".gguf", ".safetensors", ".safetensors.index.json")


@click.command("estimate")
@click.argument("model", metavar="SIZE|MODEL")
@click.option(
    "--type",
    "names",
    multiple=True,
    metavar="TYPE",
    help="A type such as Q4_K or a file type such as Q4_K_M. Can be repeated. Without it, all file types are listed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, names: tuple[str, ...], as_json: bool) -> None:
    """Compute how much memory in GB (10^9 bytes) the weights of a model take: no context, and no working memory.

    SIZE is a number of weights, such as 7B or 350M. In a type such as Q4_K, each weight takes the same number of bits.
    A file type such as Q4_K_M mixes types, so the size depends on the shape of the model: quantreg plans a published
    Llama model of about this size, and says which. A name that is both, such as Q4_0, means the type.

    MODEL is a GGUF or safetensors file. Its size is that of the tensors that `quantreg quantize MODEL TYPE` would
    write.
    """
    from quantreg.sizes import parse_params

    try:
        weights = parse_params(model)
    except ValueError as error:
        if os.path.exists(model) or model.endswith(_MODEL_SUFFIXES):
            _estimate_file(model, names, as_json)
            return
        raise click.BadParameter(str(error)) from None
    _estimate_size(model, weights, names, as_json)


def _estimate_size(given: str, weights: float, names: tuple[str, ...], as_json: bool) -> None:
    from quantreg.recipes import file_types
    from quantreg.recipes.estimates import estimate

    wanted: list[Any] = list(names) or [file_type for file_type in file_types.values() if not file_type.only_copy]
    found = [estimate(weights, name) for name in wanted]
    if as_json:
        print_json({"params": given, "types": [estimated.to_dict() for estimated in found]})
    elif len(found) == 1:
        click.echo(f"{found[0].bytes / 1e9:{'.3g' if found[0].assumed else '.10g'}} GB")
    else:
        found.sort(key=lambda estimated: estimated.bytes)
        rows = [(e.type, size(e.bytes), bits(e.bits_per_weight)) for e in found]
        table(["FILE TYPE" if not names else "TYPE", ">SIZE", ">BITS PER WEIGHT"], rows)
    for assumed in dict.fromkeys(e.assumed for e in found if e.assumed):
        click.echo(assumed, err=True)


def _estimate_file(path: str, names: tuple[str, ...], as_json: bool) -> None:
    import quantreg
    from quantreg.recipes import file_types

    wanted = names or [file_type.name for file_type in file_types.values() if not file_type.only_copy]
    plans = {}
    refused = {}
    for name in wanted:
        try:
            plan = quantreg.plan(path, name, check=False, allow_requantize=True)
        except quantreg.PlanError as error:  # the rows of a tensor do not fit, for example
            if names:
                raise
            refused[name] = str(error)
        else:
            plans[plan.file_type.name] = plan
    if as_json:
        types = [_plan_dict(name, plan) for name, plan in plans.items()]
        print_json({"file": path, "types": types, "refused": refused})
        return
    if len(plans) == 1 and names:
        (plan,) = plans.values()
        click.echo(f"{plan.bytes / 1e9:.10g} GB")
        warn((*plan.problems, *plan.warnings))
        return
    rows = [
        (name, size(plan.bytes), bits(plan.bits_per_weight), _remark(plan))
        for name, plan in sorted(plans.items(), key=lambda item: item[1].bytes)
    ]
    table(["FILE TYPE", ">SIZE", ">BITS PER WEIGHT", "REMARK"], rows)
    for name, reason in refused.items():
        click.echo(printable(f"{name}: {reason}"), err=True)


def _plan_dict(name: str, plan: "Plan") -> dict[str, Any]:
    return {
        "type": name,
        "weights": plan.n_elements,
        "bytes": plan.bytes,
        "gigabytes": plan.bytes / 1e9,
        "bits_per_weight": plan.bits_per_weight,
        "fallbacks": len(plan.fallbacks),
        "problems": list(plan.problems),
        "warnings": list(plan.warnings),
    }


def _remark(plan: "Plan") -> str:
    """Say in a few words what a user should know before choosing this file type."""
    remarks = []
    if any(tensor.needs_importance for tensor in plan.tensors):
        remarks.append("needs an imatrix")
    if plan.fallbacks:
        remarks.append(f"{count(len(plan.fallbacks), 'tensor')} in a larger type")
    return ", ".join(remarks)
