"""Commands about a line's models: promote, roll back, list, the golden set."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands.common import AsJson, Device, Line, PartOrKey, plain_errors, user_name

if TYPE_CHECKING:
    from flows.promote_model import PromotionResult

app = typer.Typer()
golden_app = typer.Typer(no_args_is_help=True, help="The golden set: images with known verdicts, never trained on.")
app.add_typer(golden_app, name="golden")

Who = Annotated[str, typer.Option(default_factory=user_name, help="Who does this.", show_default="the user's name")]
Version = Annotated[int | None, typer.Option("--version", min=1, help="Instead of @challenger.")]


@app.command()
def promote(
    line: Line,
    who: Who,
    version: Version = None,
    approve: Annotated[bool, typer.Option("--approve", help="Approve what the gate cannot show.")] = False,
    may_miss: Annotated[
        list[str] | None, typer.Option(help="A golden image that the challenger may miss; may be repeated.")
    ] = None,
    without_gate: Annotated[
        str | None, typer.Option(metavar="REASON", help="Compare nothing: why. Needs --version.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare the challenger with the champion on the same images; it becomes champion if the gate lets it pass.

    Exit code 1 if it does not become champion.
    """
    with plain_errors():
        from flows.promote_model import promote_model

        result = promote_model(
            line,
            version,
            tuple(may_miss or ()),
            approved_by=who if approve else None,
            without_gate=without_gate,
            who=who,
            device=device,
        )
        _print_decision(line, result)


@app.command()
def rollback(
    line: Line,
    who: Who,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")],
    version: Annotated[int | None, typer.Option(min=1, help="Instead of the former champion.")] = None,
) -> None:
    """Make the former champion, or another version, the champion again: at once, without the gate."""
    with plain_errors():
        from flows.promote_model import promote_model
        from tasks.promotion.promote import former_champion
        from tasks.systems import open_systems

        back_to = version or former_champion(open_systems(line))
        _print_decision(line, promote_model(line, back_to, without_gate=reason, who=who))


def _print_decision(line: str, result: "PromotionResult") -> None:
    decision = result.decision
    if result.gate:
        typer.echo(result.gate)
    typer.echo(f"{decision.model_name} version {decision.version}: {decision.outcome}: {decision.why}")
    if decision.outcome == "waiting":
        typer.echo(
            f"to decide: `inspection promote {line} --approve`, or run it on a Prefect server, which asks in its UI",
            err=True,
        )
    if decision.alias != "champion":
        raise typer.Exit(1)


@app.command()
def limit(
    line: Line,
    false_rejects: Annotated[float, typer.Option(min=1e-6, max=0.999, help="Share of good parts that may be flagged.")],
    nights: Annotated[int, typer.Option(min=1, max=36500, help="Newest production dates to look at.")] = 30,
    set_it: Annotated[
        bool, typer.Option("--set", help="Register a version with this limit, as challenger: the gate decides.")
    ] = False,
) -> None:
    """Tell what another limit would have flagged in past nights, from stored scores and findings."""
    with plain_errors():
        from flows.change_limit import change_limit
        from tasks.night.pinned import pin_model
        from tasks.promotion.what_if import what_if
        from tasks.systems import open_systems

        systems = open_systems(line)
        found = what_if(systems, pin_model.fn(systems, None, "cpu"), false_rejects, nights)
        typer.echo(f"{line}, version {found.model_version}, {found.start} to {found.end}: {found.parts} parts judged")
        for name, one in (("now", found.now), ("then", found.then)):
            low, high = one.interval
            typer.echo(
                f"  {name}: at most {one.false_reject_rate:.2%} of good parts (limit {one.limit:.4f}): "
                f"{one.parts} parts flagged, {one.share:.2%} (between {low:.2%} and {high:.2%}, 95 %); "
                f"of {found.defects} parts found defective {one.defects}, of {found.good} found good {one.good}"
            )
        if found.newly_missed:
            typer.echo(f"  defective parts that would have passed: {', '.join(found.newly_missed)}")
        if set_it:
            version = change_limit(line, false_rejects)
            typer.echo(f"{version.uri} has this limit and is @challenger; `inspection promote {line}` asks the gate")


@app.command()
def decisions(line: Line, as_json: AsJson = False) -> None:
    """List what was decided about a line's models, newest first: promotions, refusals, rollbacks."""
    with plain_errors():
        from deployments.commands.audit_screen import show_decisions
        from deployments.commands.screen import tell
        from tasks.audit.lookup import open_archive

        rows = list(reversed(open_archive().store.decisions.promotions(line)))
        tell(rows, as_json, lambda screen: show_decisions(screen, line, rows))


@golden_app.command("add")
def golden_add(
    line: Line,
    part_or_key: PartOrKey,
    who: Who,
    kind: Annotated[
        str | None, typer.Option(help="Name of the defect; default good or defect, as it was reviewed.")
    ] = None,
) -> None:
    """Copy a reviewed part's images into the line's golden set."""
    with plain_errors():
        from tasks.golden.golden_set import add_to_golden_set
        from tasks.systems import open_systems

        new = add_to_golden_set(open_systems(line), part_or_key, kind, who)
        for image in new:
            typer.echo(f"{image.image}: {image.kind}, from {image.source}")
        if not new:
            typer.echo(f"{part_or_key}: is in the golden set already")


@golden_app.command("list")
def golden_list(line: Line, as_json: AsJson = False) -> None:
    """List the line's golden images."""
    with plain_errors():
        from deployments.commands.audit_screen import show_golden_images
        from deployments.commands.screen import tell
        from tasks.golden.golden_set import read_golden_set
        from tasks.systems import open_systems

        images = read_golden_set(open_systems(line))
        tell(images, as_json, lambda screen: show_golden_images(screen, line, images))


@golden_app.command("check")
def golden_check(line: Line) -> None:
    """See that every golden image is there, whole, fit to judge, and unknown to the models; exit code 1 if not."""
    with plain_errors():
        from tasks.golden.golden_set import check_golden_set
        from tasks.systems import open_systems

        images, wrong = check_golden_set(open_systems(line))
        defective = sum(image.is_defective for image in images)
        for fault in wrong:
            typer.secho(fault, fg="red", err=True)
        typer.echo(f"{line}: {len(images)} golden images, {defective} of them defective; {len(wrong)} faults")
    if wrong:
        raise typer.Exit(1)
